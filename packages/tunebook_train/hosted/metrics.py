"""What a provider tells of a training's steps, in the words of our own."""

from __future__ import annotations

import base64
import csv
import io
import logging
from collections.abc import Iterable, Mapping
from typing import Any

logger = logging.getLogger(__name__)

NAMES = {
    "train_loss": "loss",
    "train_mean_token_accuracy": "accuracy",
    "train_accuracy": "accuracy",
    "valid_loss": "validation_loss",
    "full_valid_loss": "validation_loss",
    "valid_mean_token_accuracy": "validation_accuracy",
    "full_valid_mean_token_accuracy": "validation_accuracy",
}
"""The later of two that mean the same counts: over all of the validation file, not one batch of it."""


def text_of(content: bytes, name: str) -> str:
    """A result file's CSV, which OpenAI serves in base64; what is neither is named in the log, and left."""
    text = content.decode("utf-8-sig", errors="replace").strip()
    if _is_csv(text):
        return text
    try:
        decoded = base64.b64decode("".join(text.split()), validate=True).decode("utf-8-sig").strip()
    except ValueError:
        decoded = ""
    if _is_csv(decoded):
        return decoded
    logger.warning(
        "result file %s is no CSV with a column `step`: losses are those of the job's events", name
    )
    return text


def of_results(texts: Iterable[str]) -> list[dict[str, float]]:
    """One entry a step of result files."""
    return _by_step(row for text in texts for row in csv.DictReader(io.StringIO(text)))


def of_events(events: Iterable[Mapping[str, Any]]) -> list[dict[str, float]]:
    """One entry a step of a job's events."""
    return _by_step(data for event in events if isinstance(data := event.get("data"), dict))


def _is_csv(text: str) -> bool:
    return "step" in text.partition("\n")[0].strip().split(",")


def _by_step(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, float]]:
    steps: dict[int, dict[str, float]] = {}
    for row in rows:
        step = _number(row.get("step"))
        if step is None:
            continue
        entry = steps.setdefault(int(step), {"step": int(step)})
        told = ((ours, _number(row.get(name))) for name, ours in NAMES.items())
        entry |= {name: value for name, value in told if value is not None}
    return [steps[step] for step in sorted(steps)]


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
