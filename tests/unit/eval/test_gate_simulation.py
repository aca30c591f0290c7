"""Evaluations whose true mean is the threshold: how often a gate passes them, which should be 5 % at most.

In CI some hundreds of each kind, by hand (`-m soak`) 20,000.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import numpy as np
import pytest

from tunebook_eval import statistics
from tunebook_eval.statistics import (
    ALPHA,
    POWER,
    Bounds,
    clustered_stderr,
    detectable_effect,
    difference_bounds,
    mean_bounds,
    rows_to_settle,
)

logger = logging.getLogger(__name__)
RNG = np.random.default_rng(7)

few_or_many = pytest.mark.parametrize(
    "num", [400, pytest.param(20_000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])]
)


def names(num: int, each: int = 1) -> list[str]:
    return [str(number // each) for number in range(num)]


def independent(share: float, num: int) -> tuple[Bounds, float]:
    return mean_bounds((RNG.random(num) < share).astype(float).tolist(), names(num)), share


def paired(gained: float, lost: float, num: int) -> tuple[Bounds, float]:
    drawn = RNG.choice(3, size=num, p=[gained, lost, 1 - gained - lost])
    same = RNG.random(num) < 0.5
    first, second = ((drawn == which) | ((drawn == 2) & same) for which in (0, 1))
    bounds = difference_bounds(first.astype(float).tolist(), second.astype(float).tolist(), names(num))
    return bounds, gained - lost


def clustered(share: float, correlation: float, num_groups: int, each: int) -> tuple[Bounds, float]:
    spread = (1 - correlation) / correlation
    of_group = RNG.beta(share * spread, (1 - share) * spread, num_groups).repeat(each)
    scores = (RNG.random(num_groups * each) < of_group).astype(float)
    return mean_bounds(scores.tolist(), names(len(scores), each)), share


def clustered_difference(num_groups: int, each: int) -> tuple[Bounds, float]:
    of_group = RNG.normal(0, 0.3, num_groups).repeat(each)
    first = of_group + RNG.normal(0, 0.5, len(of_group))
    return difference_bounds(first.tolist(), [0.0] * len(first), names(len(first), each)), 0.0


KINDS: dict[str, Callable[[], tuple[Bounds, float]]] = {
    "independent": lambda: independent(0.85, 200),
    "independent, few": lambda: independent(0.5, 60),
    "paired": lambda: paired(0.1, 0.1, 200),
    "paired drop": lambda: paired(0.03, 0.08, 200),
    "clustered": lambda: clustered(0.5, 0.2, 22, 10),
    "clustered, near one": lambda: clustered(0.8, 0.1, 35, 6),
    "clustered difference": lambda: clustered_difference(20, 10),
    "clustered difference, few": lambda: clustered_difference(8, 6),
}


@few_or_many
@pytest.mark.parametrize("kind", KINDS)
def test_a_gate_at_its_threshold_passes_no_more_often_than_it_says(
    kind: str, num: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "NUM_RESAMPLES", 2000)
    made = (KINDS[kind]() for _ in range(num))
    rate = sum(bounds.low is not None and bounds.low > threshold for bounds, threshold in made) / num
    logger.info("%s: %.4f of %d pass", kind, rate, num)
    assert rate <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / num)


@few_or_many
def test_the_detectable_effect_is_detected_as_often_as_it_says(
    num: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "NUM_RESAMPLES", 2000)
    stderr = math.sqrt((0.3**2 + 0.5**2 / 6) / 35)
    effect = detectable_effect(stderr)
    lows = [clustered_difference(35, 6)[0].low for _ in range(num)]
    power = sum(low is not None and low + effect > 0 for low in lows) / num
    logger.info("power %.4f of %d", power, num)
    assert power == pytest.approx(POWER, abs=0.03 + 3 * math.sqrt(POWER * (1 - POWER) / num))


@few_or_many
@pytest.mark.parametrize("share", [0.6, 0.9])
def test_as_many_rows_as_are_said_to_be_needed_settle_it(share: float, num: int) -> None:
    """The bound of that many rows of the same mean is at the threshold: within 20 % of the rows."""
    threshold, found = share - 0.04, []
    for _ in range(num // 20):
        bounds, _ = independent(share, 100)
        margin = bounds.mean - threshold
        if margin <= 0.01 or (rows := rows_to_settle(bounds, threshold)) is None:
            continue
        ones = round(bounds.mean * rows)
        for_so_many = mean_bounds([1.0] * ones + [0.0] * (rows - ones), names(rows))
        assert for_so_many.low is not None
        found.append(((for_so_many.mean - for_so_many.low) / margin) ** 2)
    assert len(found) > 5
    logger.info("rows needed by rows said: %.3f to %.3f, median %.3f", *np.quantile(found, [0, 1, 0.5]))
    assert 0.8 <= min(found) <= max(found) <= 1.2


def test_the_standard_error_is_what_means_of_such_evaluations_spread_by() -> None:
    means, errors = [], []
    for _ in range(2000):
        scores = (RNG.normal(0, 0.3, 35).repeat(6) + RNG.normal(0, 0.5, 210)).tolist()
        means.append(np.mean(scores))
        errors.append(clustered_stderr(scores, names(210, 6)))
    assert np.mean([error for error in errors if error]) == pytest.approx(np.std(means), rel=0.06)
