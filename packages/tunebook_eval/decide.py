"""Stage `decide`: the evidence to a verdict. Pure, so that new thresholds can judge an old report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tunebook_eval.evidence import ArmScores, Estimate, EvalReport
from tunebook_eval.statistics import (
    ALPHA,
    Bounds,
    clustered_stderr,
    detectable_effect,
    difference_bounds,
    mcnemar,
    mean_bounds,
    rows_to_settle,
)
from tunebook_eval.trust import advisory
from tunebook_eval.verdict import GateResult, GateVerdict, Outcome
from tunebook_spec.evaluation import PROMPTED, Gate
from tunebook_spec.metrics import ALWAYS

UNSCORED = ".unscored"


def decide(
    report: EvalReport, gates: tuple[Gate, ...], bounds: Mapping[str, Mapping[str, float]]
) -> GateVerdict:
    """Judge every gate; a metric that is too thin, or of a judge that is not to be trusted, decides none.

    Args:
        report: What `evaluate` found.
        gates: What it is held to.
        bounds: What each judge's calibration is held to, by `set.metric` and field.
    """
    shown_only = advisory(report, bounds)
    results = (_advisory(_judge(report, gate), shown_only) for gate in gates)
    return GateVerdict(results=tuple(results), advisory=shown_only)


def judged_arms(report: EvalReport) -> dict[str, set[str]]:
    """By metric, the arms that a gate on it can name."""
    arms: dict[str, set[str]] = {}
    for each in report.scores:
        metrics = [each.metric]
        if not _says_all(each) and not _is_of_a_part(report, each):
            metrics.append(f"{each.metric}{UNSCORED}")
        for metric in metrics:
            named = arms.setdefault(f"{each.set}.{metric}", set())
            named |= set() if each.is_rule else {each.arm}
            named |= {"best_baseline"} if _is_baseline(each) else set()
    return arms


@dataclass(frozen=True)
class _Pairs:
    """Items that both arms have a score for."""

    judged: list[float]
    other: list[float]
    groups: list[str]

    @property
    def p_value(self) -> float | None:
        """Exact McNemar; none unless every score is 0 or 1 and every item a group of its own."""
        if not {*self.judged, *self.other} <= {0.0, 1.0} or len(set(self.groups)) < len(self.groups):
            return None
        pairs = list(zip(self.judged, self.other, strict=True))
        return mcnemar(sum(a > b for a, b in pairs), sum(a < b for a, b in pairs))


def _judge(report: EvalReport, gate: Gate) -> GateResult:
    scores = report.of(gate.metric)
    if gate.metric.endswith(UNSCORED) and not scores:
        scores = tuple(_unscored(report, each) for each in report.of(gate.metric.removesuffix(UNSCORED)))
    judged = next((each for each in scores if each.arm == gate.arm and each.scores), None)
    if judged is None:
        return _without_value(gate, f"the {gate.arm} model has no score here")
    if gate.opponent is None:
        groups = [report.groups[judged.set][item] for item in judged.scores]
        values = list(judged.scores.values())
        return _result(gate, mean_bounds(values, groups), clustered_stderr(values, groups))
    other = _opponent(scores, gate)
    if other is None:
        return _without_value(gate, f"nothing answered this set to compare with ({gate.opponent})")
    pairs = _pair(report, judged, other)
    if not pairs.judged:
        return _without_value(gate, f"no item was scored for both {gate.arm} and {other.arm}")
    bounds = difference_bounds(pairs.judged, pairs.other, pairs.groups)
    differences = [one - two for one, two in zip(pairs.judged, pairs.other, strict=True)]
    stderr = clustered_stderr(differences, pairs.groups)
    return _result(gate, bounds, stderr, other.arm, pairs.p_value if gate.at_least == 0 else None)


def _advisory(result: GateResult, shown_only: Mapping[str, str]) -> GateResult:
    """What a judge cannot decide is inconclusive; how often it cannot be read needs no trust in it."""
    metric = result.gate.metric
    is_judged = any(metric == name or metric.startswith(f"{name}.") for name in shown_only)
    if not is_judged or metric.endswith(UNSCORED):
        return result
    return result.model_copy(update={"outcome": "inconclusive", "note": "the metric is advisory"})


def _opponent(scores: tuple[ArmScores, ...], gate: Gate) -> ArmScores | None:
    """What the arm is held against; of baselines the one with the best mean."""
    wanted = [
        each
        for each in scores
        if (_is_baseline(each) if gate.opponent == "best_baseline" else each.arm == gate.opponent)
    ]
    scored = [
        (each.overall.mean, each) for each in wanted if each.overall is not None and each.arm != gate.arm
    ]
    best = max if gate.at_most is None else min
    return best(scored, key=lambda pair: pair[0])[1] if scored else None


def _is_baseline(scores: ArmScores) -> bool:
    """What needs no training: few-shot, retrieval, and rules that know no answers."""
    return scores.arm in PROMPTED or (scores.is_rule and not scores.is_reference)


def _says_all(scores: ArmScores) -> bool:
    """Whether it is measured wherever there is an answer: nothing is unscored by it alone."""
    return "." in scores.metric or scores.metric in ALWAYS


def _is_of_a_part(report: EvalReport, scores: ArmScores) -> bool:
    """Whether a part of the set was asked: nobody knows then what of the rest it could not score."""
    asked = len(scores.scores) + scores.num_unscored
    return asked < len(report.groups[scores.set])


def _unscored(report: EvalReport, scores: ArmScores) -> ArmScores:
    """1 for each item that the metric could not score, 0 for the others."""
    by_item = {item: float(item not in scores.scores) for item in report.groups[scores.set]}
    count, groups = len(by_item), len(set(report.groups[scores.set].values()))
    mean = sum(by_item.values()) / count
    overall = Estimate(num_samples=count, num_groups=groups, mean=mean, stderr=None, ci95=None)
    return scores.model_copy(update={"overall": overall, "scores": by_item})


def _pair(report: EvalReport, judged: ArmScores, other: ArmScores) -> _Pairs:
    items = [item for item in judged.scores if item in other.scores]
    return _Pairs(
        [judged.scores[item] for item in items],
        [other.scores[item] for item in items],
        [report.groups[judged.set][item] for item in items],
    )


def _result(
    gate: Gate,
    bounds: Bounds,
    stderr: float | None,
    compared_with: str | None = None,
    p_value: float | None = None,
) -> GateResult:
    result = GateResult(
        gate=gate,
        outcome="inconclusive",
        rule=_rule(gate),
        value=bounds.mean,
        low=bounds.low,
        high=bounds.high,
        num_samples=bounds.num_samples,
        compared_with=compared_with,
        p_value=p_value,
        detectable=detectable_effect(stderr) if stderr and bounds.low is not None else None,
    )
    outcome = _outcome(gate, bounds, result.threshold, p_value)
    note = _note(bounds, result.threshold, result.detectable) if outcome == "inconclusive" else ""
    return result.model_copy(update={"outcome": outcome, "note": note})


def _outcome(gate: Gate, bounds: Bounds, threshold: float, p_value: float | None) -> Outcome:
    above = bounds.low is not None and bounds.low > threshold
    below = bounds.high is not None and bounds.high < threshold
    passes, fails = (below, above) if gate.at_most is not None else (above, below)
    if passes and (p_value is None or p_value < ALPHA):
        return "pass"
    return "fail" if fails else "inconclusive"


def _note(bounds: Bounds, threshold: float, detectable: float | None) -> str:
    if bounds.low is None and bounds.method == "no variance":
        return "every row has this value, which bounds nothing outside of 0 to 1"
    if bounds.low is None:
        return f"{bounds.num_groups} group{'s' * (bounds.num_groups != 1)}: too few to bound the value"
    rows = rows_to_settle(bounds, threshold)
    settles = (
        f"about {rows} rows would settle it" if rows else "at the threshold; more rows may not settle it"
    )
    shown = f"; these rows show {detectable:.3f} either way, 4 times in 5" if detectable else ""
    return settles + shown


def _without_value(gate: Gate, note: str) -> GateResult:
    return GateResult(
        gate=gate,
        outcome="inconclusive",
        rule=_rule(gate),
        value=None,
        low=None,
        high=None,
        num_samples=0,
        note=note,
    )


def _rule(gate: Gate) -> str:
    judged = gate.metric if gate.arm == "tuned" else f"{gate.arm} {gate.metric}"
    if gate.max_drop is not None:
        return f"{judged} drop < {gate.max_drop:g}"
    gain = f" gain over {gate.gain_over}" if gate.gain_over else ""
    if gate.at_most is not None:
        return f"{judged}{gain} <= {gate.at_most:g}"
    assert gate.at_least is not None
    return f"{judged}{gain} {'>' if gain and gate.at_least == 0 else '>='} {gate.at_least:g}"
