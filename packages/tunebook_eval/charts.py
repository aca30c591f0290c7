"""The report's drawings, as SVG that takes its colours from the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from tunebook_eval.evidence import ArmScores, Calibration
from tunebook_eval.verdict import GateVerdict
from tunebook_run.page import COLOURS, STYLE, WIDTH_IN, svg

NUM_BINS = 20
"""Of a distribution of scores."""


def gates_svg(verdict: GateVerdict) -> str:
    """Each gate's value with its bounds, as the distance from its threshold: right of zero passes.

    What must stay below its threshold is mirrored.
    """
    shown = [each for each in verdict.results if each.value is not None]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 0.6 + 0.5 * max(len(shown), 1)), layout="constrained")
        axes = figure.add_subplot()
        for row, each in enumerate(reversed(shown)):
            assert each.value is not None
            colour, zero = COLOURS[each.outcome], each.threshold
            sign = 1 if each.gate.at_most is None else -1
            if each.low is not None and each.high is not None:
                ends = [sign * (each.low - zero), sign * (each.high - zero)]
                axes.plot(ends, [row, row], color=colour, linewidth=4, alpha=0.45)
            axes.plot([sign * (each.value - zero)], [row], "o", color=colour, markersize=6)
            label = axes.text(0, row + 0.22, each.rule, transform=axes.get_yaxis_transform(), va="bottom")
            label.set_bbox({"facecolor": COLOURS["bg"], "edgecolor": "none", "pad": 1})
        axes.axvline(0, color=COLOURS["text"], linewidth=1, zorder=0)
        axes.set_ylim(-0.5, len(shown) - 0.2)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("distance from the threshold; right of the line passes")
        return svg(figure, "Each gate's value and 95 % bounds against its threshold")


def calibration_svg(found: Calibration) -> str:
    """Each golden answer by the score of people and of the judge, both 0 to 10; on the line they agree."""
    points = [(each.golden, each.judged) for each in found.points if each.judged is not None]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 0.8 * WIDTH_IN), layout="constrained")
        axes = figure.add_subplot(aspect="equal", xlim=(-0.5, 10.5), ylim=(-0.5, 10.5))
        axes.plot([0, 10], [0, 10], color=COLOURS["line"], linewidth=1, zorder=0)
        if points:
            axes.plot(*zip(*points, strict=True), "o", color=COLOURS["accent"], markersize=6, alpha=0.4)
        axes.set_xlabel("score of people")
        axes.set_ylabel("score of the judge")
        return svg(figure, "The judge's scores of golden answers against those of people")


def distribution_svg(scores: Sequence[ArmScores]) -> str | None:
    """How many items have which score, arm under arm on one axis; None where all are 0 or 1, or the same."""
    found = {each.arm: list(each.scores.values()) for each in scores if each.scores}
    every = {value for values in found.values() for value in values}
    if every <= {0.0, 1.0} or len(every) == 1:
        return None
    low, high = (0.0, 1.0) if min(every) >= 0 and max(every) <= 1 else (min(every), max(every))
    edges = np.linspace(low, high, NUM_BINS + 1)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 0.5 + 0.62 * len(found)), layout="constrained")
        rows = figure.subplots(len(found), sharex=True, squeeze=False)[:, 0]
        for axes, (arm, values) in zip(rows, found.items(), strict=True):
            shares = np.histogram(values, edges)[0] / len(values)
            colour = COLOURS["accent" if arm == "tuned" else "muted"]
            axes.bar(edges[:-1], shares, np.diff(edges), align="edge", color=colour, alpha=0.6)
            axes.set_ylim(0, 1.05 * shares.max())
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            axes.set_title(
                f"{arm}, highest bar {shares.max():.0%} of {len(values)}", loc="left", fontsize=10, pad=2
            )
        rows[-1].set_xlabel("score of an item")
        return svg(figure, f"How many items have which {scores[0].set}.{scores[0].metric}, by arm")


def losses_svg(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Training and validation loss by step, and the step whose weights were kept, if it is not the last."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 2.6), layout="constrained")
        axes = figure.add_subplot()
        for key, label, style in (
            ("loss", "training", {"color": COLOURS["accent"], "linewidth": 1.2}),
            ("validation_loss", "validation", {"color": COLOURS["text"], "marker": "o", "markersize": 4}),
        ):
            points = [(each["step"], each[key]) for each in metrics if each.get(key) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), label=label, **style)  # type: ignore[arg-type]
        best = next((each["step"] for each in metrics if each.get("is_best")), None)
        if best is not None:
            axes.axvline(best, label="best, kept", color=COLOURS["text"], linewidth=0.8, linestyle=":")
        axes.set_xlabel("step")
        is_of_pairs = any("rewards/margins" in each for each in metrics)
        axes.set_ylabel("loss per pair" if is_of_pairs else "loss per supervised token")
        axes.legend(frameon=False)
        return svg(figure, "Training and validation loss by step")
