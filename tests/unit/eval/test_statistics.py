from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import norm, pearsonr, rankdata, ttest_1samp

from tunebook_eval.statistics import (
    NUM_RESAMPLES,
    Bounds,
    clustered_stderr,
    detectable_effect,
    difference_bounds,
    holm,
    kendall,
    mcnemar,
    mean_bounds,
    paired_p_value,
    partial_spearman,
    rows_to_settle,
    spearman,
    tango_bounds,
)

Z = float(norm.ppf(0.95))


def names(count: int) -> list[str]:
    return [f"g{number}" for number in range(count)]


def test_wilson_bound_of_85_in_100() -> None:
    # (p + z^2/2n - z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n) with z = 1.6449, by hand
    bounds = mean_bounds([1.0] * 85 + [0.0] * 15, names(100))
    assert bounds.method == "wilson"
    assert bounds.low == pytest.approx(0.782, abs=5e-4)
    assert bounds.high == pytest.approx(0.899, abs=5e-4)


def test_all_right_is_not_certainty() -> None:
    bounds = mean_bounds([1.0] * 20, names(20))
    assert bounds.low == pytest.approx(20 / (20 + Z * Z))
    assert bounds.high == 1.0


@pytest.mark.parametrize(("gained", "lost", "p"), [(9, 1, 11 / 1024), (5, 5, 638 / 1024), (0, 0, 1.0)])
def test_mcnemar_is_the_binomial_tail_over_discordant_pairs(gained: int, lost: int, p: float) -> None:
    assert mcnemar(gained, lost) == pytest.approx(p)


@pytest.mark.parametrize(("gained", "lost", "num"), [(12, 2, 50), (3, 9, 40), (1, 0, 12)])
def test_tango_bounds_are_where_the_score_statistic_meets_z(gained: int, lost: int, num: int) -> None:
    def statistic(delta: float) -> float:
        def loss(q: float) -> float:  # negative log-likelihood with P(gain) = q + delta, P(loss) = q
            parts = (
                (gained, q + delta),
                (lost, q),
                (num - gained - lost, 1 - 2 * q - delta),
            )
            return -sum(count * math.log(p) for count, p in parts if count)

        span = (max(0.0, -delta) + 1e-9, (1 - delta) / 2 - 1e-9)
        q = minimize_scalar(loss, bounds=span, method="bounded", options={"xatol": 1e-12}).x
        return (gained - lost - num * delta) / math.sqrt(num * (2 * q + delta - delta * delta))

    low, high = tango_bounds(gained, lost, num)
    assert statistic(low) == pytest.approx(Z, abs=1e-3)
    assert statistic(high) == pytest.approx(-Z, abs=1e-3)
    assert low < (gained - lost) / num < high


def test_no_change_at_all_still_leaves_room_for_one() -> None:
    low, high = tango_bounds(0, 0, 100)
    assert high == pytest.approx(Z * Z / (100 + Z * Z), rel=1e-4)
    assert low == pytest.approx(-high, rel=1e-4)


def test_tango_bounds_hold_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    draws = rng.multinomial(60, [0.2, 0.1, 0.7], size=1000)
    held = np.mean([tango_bounds(int(g), int(lost), 60)[0] <= 0.1 for g, lost, _ in draws])
    assert 0.93 <= held <= 0.98


def test_bootstrap_bound_agrees_with_the_normal_bound_where_that_holds() -> None:
    scores = np.random.default_rng(1).beta(4, 2, 400)
    bounds = mean_bounds(list(scores), names(400))
    assert bounds.method == "bootstrap"
    assert bounds.low == pytest.approx(scores.mean() - Z * scores.std() / 20, abs=0.002)
    assert bounds.high == pytest.approx(scores.mean() + Z * scores.std() / 20, abs=0.002)


def test_repeating_every_row_within_its_group_adds_no_confidence() -> None:
    scores = list(np.random.default_rng(2).random(40))
    once = mean_bounds(scores, names(40))
    thrice = mean_bounds(scores * 3, names(40) * 3)
    assert (thrice.low, thrice.high) == (pytest.approx(once.low), pytest.approx(once.high))
    assert clustered_stderr(scores * 3, names(40) * 3) == pytest.approx(clustered_stderr(scores, names(40)))


def test_pairing_removes_what_both_arms_share() -> None:
    rng = np.random.default_rng(3)
    base = rng.random(200) * 0.8
    tuned = base + rng.normal(0.05, 0.02, 200)
    paired = difference_bounds(list(tuned), list(base), names(200))
    assert paired.low is not None
    assert paired.low > 0.045
    assert paired.high is not None
    assert paired.high < 0.055


def test_stderr_of_independent_rows_is_the_usual_one() -> None:
    scores = [0.1, 0.4, 0.4, 0.9]
    assert clustered_stderr(scores, names(4)) == pytest.approx(np.std(scores, ddof=1) / 2)


@pytest.mark.parametrize(
    ("scores", "groups"),
    [([1.0], ["a"]), ([0.2, 0.9, 0.4], ["a", "a", "a"]), ([0.2, 0.9, 0.4, 0.5], ["a", "b", "c", "d"])],
    ids=["one row", "one group", "four groups"],
)
def test_too_few_groups_bound_nothing(scores: list[float], groups: list[str]) -> None:
    bounds = mean_bounds(scores, groups)
    assert (bounds.low, bounds.high, bounds.method) == (None, None, "too few")


def test_equal_scores_leave_room_for_what_was_not_seen() -> None:
    bounds = mean_bounds([0.5] * 30, names(30))
    w = Z * Z / (30 + Z * Z)
    assert bounds.low == pytest.approx(0.5 - w * 0.5)
    assert bounds.high == pytest.approx(0.5 + w * 0.5)
    assert mean_bounds([-3.0] * 30, names(30)).low is None


def test_the_same_scores_give_the_same_bounds() -> None:
    scores = list(np.random.default_rng(4).random(50))
    assert mean_bounds(scores, names(50)) == mean_bounds(scores, names(50))
    assert NUM_RESAMPLES % 500 == 0


def test_rows_to_settle_follow_the_square_root() -> None:
    bounds = Bounds(0.9, 0.86, 0.94, "bootstrap", 100, 100)
    assert rows_to_settle(bounds, 0.88) == 400  # half the margin: four times the rows
    assert rows_to_settle(bounds, 0.9) is None
    assert rows_to_settle(Bounds(0.9, None, None, "too few", 3, 1), 0.8) is None


def test_the_detectable_effect_is_seen_four_times_in_five() -> None:
    # (1.6449 + 0.8416) standard errors, one-sided 5 %, power 0.8
    assert detectable_effect(0.1) == pytest.approx(0.24865, abs=1e-5)
    rng = np.random.default_rng(5)
    effect = detectable_effect(1 / math.sqrt(80))
    draws = rng.normal(effect, 1, (400, 80))
    seen = [mean_bounds(list(draw), names(80)).low for draw in draws[:100]]
    assert 0.7 <= np.mean([low is not None and low > 0 for low in seen]) <= 0.9


def test_holm_as_in_r() -> None:
    # p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_paired_p_value_is_exact_where_that_can_be_counted() -> None:
    # Binary and independent: 9 of 10 discordant pairs gained, both tails of a fair coin.
    first, second = [1.0] * 9 + [0.0] + [1.0] * 5, [0.0] * 9 + [1.0] + [1.0] * 5
    assert paired_p_value(first, second, names(15)) == pytest.approx(2 * 11 / 1024)
    # Five groups that all gain: 2 of 2^5 signs are as extreme, however many rows each has.
    gains = [0.1, 0.2, 0.3, 0.4, 0.5]
    assert paired_p_value(gains, [0.0] * 5, names(5)) == pytest.approx(2 / 32)
    assert paired_p_value(gains * 8, [0.0] * 40, names(5) * 8) == pytest.approx(2 / 32)
    assert paired_p_value([0.5, 0.5], [0.5, 0.5], names(2)) == 1.0
    assert paired_p_value([0.5, 0.7], [0.1, 0.1], ["a", "a"]) is None


def test_a_random_permutation_agrees_with_the_t_test_where_that_holds() -> None:
    differences = np.random.default_rng(6).normal(0.2, 1, 60)
    expected = ttest_1samp(differences, 0).pvalue
    assert paired_p_value(list(differences), [0.0] * 60, names(60)) == pytest.approx(expected, abs=0.02)


def test_rank_correlations_of_known_examples() -> None:
    # Ten people's IQ and hours of television: rho is -29 / 165.
    iq = [106, 100, 86, 101, 99, 103, 97, 113, 112, 110]
    hours = [7, 27, 2, 50, 28, 29, 20, 12, 6, 17]
    found = spearman(iq, hours)
    assert found is not None
    assert found[0] == pytest.approx(-29 / 165)
    # Of five ranks 6 pairs agree and 4 do not; of tied ones those that are tied count on neither side.
    assert kendall([1, 2, 3, 4, 5], [3, 4, 1, 2, 5]) == pytest.approx(0.2)
    assert kendall([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / math.sqrt(2 * 3))


def test_a_rank_correlation_is_above_its_bound_as_often_as_it_says() -> None:
    """Normal pairs with correlation r have the rank correlation 6 / pi * asin(r / 2) (Pearson 1907)."""
    rng, r, above = np.random.default_rng(8), 0.7, 0
    truth = 6 / math.pi * math.asin(r / 2)
    for _ in range(400):
        first = rng.normal(size=30)
        second = r * first + math.sqrt(1 - r**2) * rng.normal(size=30)
        found = spearman(list(first), list(second))
        assert found is not None
        above += found[1] < truth
    assert 0.92 <= above / 400 <= 0.98


def test_a_correlation_given_a_third_is_that_of_what_the_third_does_not_explain() -> None:
    rng = np.random.default_rng(9)
    given = rng.normal(size=60)
    first, second = given + rng.normal(size=60), given + rng.normal(size=60)
    found = partial_spearman(list(first), list(second), list(given))
    assert found is not None
    design = np.column_stack([np.ones(60), rankdata(given)])
    left = [rank - design @ np.linalg.lstsq(design, rank)[0] for rank in map(rankdata, (first, second))]
    assert found[0] == pytest.approx(pearsonr(*left).statistic)
    # Both follow the third alone: their own correlation is far from none, and this one is not.
    assert abs(found[0]) < 0.3
    assert found[1] > 0.05
    plain = spearman(list(first), list(second))
    assert plain is not None
    assert plain[1] > 0.1


def test_what_does_not_vary_has_no_correlation() -> None:
    assert spearman([1, 2, 3, 4], [5, 5, 5, 5]) is None
    assert kendall([5, 5], [1, 2]) is None
    assert partial_spearman([1, 2, 3, 4], [2, 1, 4, 3], [7, 7, 7, 7]) is None
    assert partial_spearman([1, 2, 3, 4], [2, 1, 4, 3], [1, 2, 3, 4]) is None, (
        "the third says all of the first"
    )
    assert spearman([1, 2, 3, 4], [2, 4, 6, 8]) == (1, 1)
