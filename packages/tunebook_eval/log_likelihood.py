"""How likely a model finds fixed texts: the most sensitive sign of forgetting, and no sampling in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar


@dataclass(frozen=True)
class TextScore:
    num_tokens: int
    """Tokens that were predicted: all but the first."""
    mean: float
    """Mean natural-log likelihood of those tokens."""


def score_texts(model_dir: Path, texts: Sequence[str]) -> Iterator[TextScore]:
    """Score each text alone, in order, in 32-bit floats; a text has at least two tokens."""
    if not texts:
        return
    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, local_files_only=True).eval()
    for text in texts:
        ids_T = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
        with torch.inference_mode():
            logits_TV = model(input_ids=ids_T[None]).logits[0]
            negative = torch.nn.functional.cross_entropy(logits_TV[:-1], ids_T[1:])
        yield TextScore(len(ids_T) - 1, -negative.item())
