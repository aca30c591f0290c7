"""What a provider tells of a training's steps, in the words of our own."""

from __future__ import annotations

import base64
import binascii
import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

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


def of_results(contents: Iterable[bytes]) -> list[dict[str, float]]:
    """One entry a step of result files: CSV, which OpenAI serves in base64."""
    return _by_step(row for content in contents for row in csv.DictReader(io.StringIO(_text(content))))


def of_events(events: Iterable[Mapping[str, Any]]) -> list[dict[str, float]]:
    """One entry a step of a job's events."""
    return _by_step(data for event in events if isinstance(data := event.get("data"), dict))


def _text(content: bytes) -> str:
    if not content.lstrip().startswith(b"step"):
        try:
            content = base64.b64decode(content, validate=True)
        except binascii.Error:
            return ""
    return content.decode("utf-8", errors="replace")


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
