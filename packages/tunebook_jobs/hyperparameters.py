"""What `auto` comes to."""

from __future__ import annotations

from typing import Any

TARGET_EPOCHS = 3
MIN_TARGET_EXAMPLES, MAX_TARGET_EXAMPLES = 100, 25_000
"""As OpenAI's cookbook reckons: epochs that show so many examples in all, from 1 to 25 of them."""
MAX_EPOCHS = 25
MIN_BATCH, MAX_BATCH = 8, 256


def resolved(asked: dict[str, Any], num_examples: int) -> dict[str, Any]:
    """Hyperparameters without `auto`.

    Args:
        asked: by the protocol's names; what is missing is `auto`.
        num_examples: of the training file.
    """
    auto = {
        "n_epochs": _epochs(num_examples),
        "batch_size": min(MAX_BATCH, max(MIN_BATCH, round(num_examples * 0.002))),
        "learning_rate_multiplier": 1.0,
    }
    given = {name: value for name, value in asked.items() if value not in (None, "auto")}
    return {**auto, **given}


def _epochs(num_examples: int) -> int:
    if num_examples * TARGET_EPOCHS < MIN_TARGET_EXAMPLES:
        return min(MAX_EPOCHS, MIN_TARGET_EXAMPLES // num_examples)
    if num_examples * TARGET_EPOCHS > MAX_TARGET_EXAMPLES:
        return max(1, MAX_TARGET_EXAMPLES // num_examples)
    return TARGET_EPOCHS
