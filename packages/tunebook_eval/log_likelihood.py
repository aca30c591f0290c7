"""How likely a model finds fixed texts: the most sensitive sign of forgetting, and no sampling in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

BATCH = 16


@dataclass(frozen=True)
class TextScore:
    num_tokens: int
    """Tokens that were predicted: all but the first."""
    mean: float
    """Mean natural-log likelihood of those tokens."""


def score_texts(model_dir: Path, texts: Sequence[str]) -> Iterator[TextScore]:
    """Score texts in order, in 32-bit floats; a text has at least two tokens.

    Padding stands behind a text, where a causal model does not look.
    """
    if not texts:
        return
    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, local_files_only=True).eval()
    for start in range(0, len(texts), BATCH):
        encoded = tokenizer(list(texts[start : start + BATCH]), add_special_tokens=False)["input_ids"]
        rows = [torch.tensor(ids) for ids in encoded]
        with torch.inference_mode():
            logits_BTV = model(input_ids=pad_sequence(rows, batch_first=True)).logits
        for ids_T, logits_TV in zip(rows, logits_BTV, strict=True):
            negative = cross_entropy(logits_TV[: len(ids_T) - 1], ids_T[1:])
            yield TextScore(len(ids_T) - 1, -negative.item())
