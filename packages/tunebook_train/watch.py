"""What a training looks like while it goes on, from the metrics that it leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

BARS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
WIDTH = 60
"""Characters of a curve."""
_SHOWN = {
    "loss": "loss {:.4f}",
    "rewards/accuracies": "accuracy {:.3f}",
    "learning_rate": "learning rate {:.2e}",
    "grad_norm": "gradient norm {:.3f}",
    "tokens_per_s": "{:,.0f} tokens/s",
    "mfu": "MFU {:.1%}",
    "peak_memory_gib": "{:.1f} GiB at most",
}


def training_lines(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """How far it is, its newest step, and its curves; nothing before the first step.

    Args:
        entries: as `read_metrics` has them; the first are the training's facts.
    """
    facts = next((each for each in entries if "num_steps" in each), {})
    steps = [each for each in entries if "loss" in each]
    if not steps:
        return []
    last = steps[-1]
    lines = [_progress(last, facts)]
    lines.append("  ".join(form.format(last[name]) for name, form in _SHOWN.items() if name in last))
    for name, losses in (
        ("loss", [each["loss"] for each in steps]),
        ("validation", [each["validation_loss"] for each in entries if "validation_loss" in each]),
    ):
        if len(losses) > 1:
            lines.append(f"{name:<11} {curve(losses)}  {losses[0]:.3f} to {losses[-1]:.3f}")
    return lines


def curve(values: Sequence[float]) -> str:
    """A line of bars from lowest to highest; of many values, the mean of each stretch."""
    num = min(len(values), WIDTH)
    ends = [round(place * len(values) / num) for place in range(num + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(ends)]
    low, high = min(means), max(means)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((mean - low) * scale)] for mean in means)


def _progress(last: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    total = facts.get("num_steps")
    told = f"step {last['step']}" + (f" of {total}, epoch {last['epoch'] + 1}" if total else "")
    if total:
        done = last["step"] / total
        told += f"  [{'#' * round(20 * done):<20}] {done:.0%}"
    if (left := last.get("eta_s")) is not None:
        told += f", about {left:.0f} s left"
    return told
