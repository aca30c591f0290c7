"""Training rows by how unlikely the base model finds what they teach: the worst may be damaged or wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tunebook_data.stored_rows import Numbers, StoredRows
from tunebook_model.token_losses import load_float32, token_losses
from tunebook_run.progress import Advance

_DECIMALS = 3
"""Kept of a loss: what is behind them may differ from one processor to another."""


@dataclass(frozen=True)
class Ranked:
    """The rows of highest loss."""

    median: float
    """Of all rows that were scored."""
    indices: Numbers
    """Highest loss first, of equals the earlier row."""
    losses: list[float]


def rank_by_loss(rows: StoredRows, model_dir: Path, num_ranked: int, advance: Advance) -> Ranked:
    """Score each row by the base's mean loss over its supervised tokens, of a pair the preferred answer's.

    Args:
        rows: at least one, each with the tokens that training sees.
        model_dir: the base model.
        num_ranked: rows to rank.
        advance: told of rows scored.
    """
    model = load_float32(model_dir)
    losses = np.empty(len(rows))
    for i in range(len(rows)):
        rendered = rows.rendered(i)
        ids_BT = torch.from_numpy(rendered.input_ids.astype(np.int64))[None]
        places_K = torch.from_numpy(np.flatnonzero(rendered.loss_mask))
        losses[i] = token_losses(model, ids_BT, places_K).mean().item()
        advance(i + 1, len(rows), "rows scored by the base model")
    losses = losses.round(_DECIMALS)
    indices = np.argsort(-losses, kind="stable")[:num_ranked]
    return Ranked(float(np.median(losses)), indices, losses[indices].tolist())
