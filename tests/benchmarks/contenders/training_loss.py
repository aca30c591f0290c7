"""What every contender of training is judged by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

LEARNING_RATE = {"full": 5e-5, "lora": 1e-3}


def read(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "rows.json").read_text())
    return told


@torch.no_grad()
def validation_loss(model: Any, folder: Path) -> float:
    """Mean over supervised tokens, each row alone through the model's own forward, in bfloat16 products."""
    model.eval()
    losses = []
    for row in read(folder)["validation"]:
        ids, labels = (torch.tensor(row[name]) for name in ("input_ids", "labels"))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1].float()
        losses.append(
            torch.nn.functional.cross_entropy(logits, labels[1:], reduction="none")[labels[1:] >= 0]
        )
    return float(torch.cat(losses).mean())
