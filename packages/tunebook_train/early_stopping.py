"""When training stops early, by its metrics alone: a resumed one and every worker decide alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from tunebook_spec.method import EarlyStopping


def best_step(metrics: Iterable[Mapping[str, Any]]) -> int | None:
    """The step of the lowest validation loss since training began; None before the first."""
    validations = [each for each in metrics if _is_of_training(each)]
    best = min(validations, key=lambda each: float(each["validation_loss"]), default=None)
    return None if best is None else int(best["step"])


def is_stale(metrics: Iterable[Mapping[str, Any]], stopping: EarlyStopping | None) -> bool:
    """Whether as many validations in a row as patience allows were not better than the best before them."""
    if stopping is None:
        return False
    best, stale = math.inf, 0
    for loss in (float(each["validation_loss"]) for each in metrics if _is_of_training(each)):
        stale = 0 if loss < best - stopping.threshold else stale + 1
        best = min(best, loss)
    return stale >= stopping.patience


def _is_of_training(entry: Mapping[str, Any]) -> bool:
    return entry.get("validation_loss") is not None and entry["step"] > 0
