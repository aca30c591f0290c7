"""How likely a model finds fixed texts: the most sensitive sign of forgetting, and no sampling in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer

from tunebook_model.token_losses import load_float32, token_losses

BATCH = 16


@dataclass(frozen=True)
class TextScore:
    num_tokens: int
    """Tokens that were predicted: all but the first."""
    mean: float
    """Mean natural-log likelihood of those tokens."""


def score_texts(model_dir: Path, texts: Sequence[str]) -> Iterator[TextScore]:
    """Score texts in order; a text has at least two tokens."""
    if not texts:
        return
    tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
    model = load_float32(model_dir)
    for start in range(0, len(texts), BATCH):
        encoded = tokenizer(list(texts[start : start + BATCH]), add_special_tokens=False)["input_ids"]
        lengths = [len(ids) for ids in encoded]
        ids_BT = pad_sequence([torch.tensor(ids) for ids in encoded], batch_first=True)
        losses_BK = token_losses(model, ids_BT, torch.arange(1, max(lengths)))
        for length, losses_K in zip(lengths, losses_BK, strict=True):
            yield TextScore(length - 1, -losses_K[: length - 1].mean().item())
