"""Stage `decide`: the evidence to a verdict. Pure, so that new thresholds can judge an old report."""

from __future__ import annotations

from dataclasses import dataclass

from tunebook_eval.evidence import ArmScores, EvalReport
from tunebook_eval.statistics import ALPHA, Bounds, difference_bounds, mcnemar, mean_bounds, rows_to_settle
from tunebook_eval.verdict import GateResult, GateVerdict, Outcome
from tunebook_spec.models import Gate


def decide(report: EvalReport, gates: tuple[Gate, ...]) -> GateVerdict:
    """Judge every gate; a metric that is too thin leaves its gate inconclusive."""
    return GateVerdict(results=tuple(_judge(report, gate) for gate in gates))


@dataclass(frozen=True)
class _Pairs:
    """Items that both arms have a score for."""

    tuned: list[float]
    other: list[float]
    groups: list[str]

    @property
    def p_value(self) -> float | None:
        """Exact McNemar; none unless every score is 0 or 1 and every item a group of its own."""
        if not {*self.tuned, *self.other} <= {0.0, 1.0} or len(set(self.groups)) < len(self.groups):
            return None
        pairs = list(zip(self.tuned, self.other, strict=True))
        return mcnemar(sum(a > b for a, b in pairs), sum(a < b for a, b in pairs))


def _judge(report: EvalReport, gate: Gate) -> GateResult:
    scores = report.of(gate.metric)
    tuned = next((each for each in scores if each.arm == "tuned" and each.scores), None)
    if tuned is None:
        return _without_value(gate, "the tuned model has no score here")
    if gate.gain_over is None and gate.max_drop is None:
        groups = [report.groups[tuned.set][item] for item in tuned.scores]
        return _result(gate, mean_bounds(list(tuned.scores.values()), groups))
    other = _opponent(scores, gate)
    if other is None:
        return _without_value(gate, f"nothing answered this set to compare with ({gate.gain_over or 'base'})")
    pairs = _pair(report, tuned, other)
    if not pairs.tuned:
        return _without_value(gate, f"no item was scored for both tuned and {other.arm}")
    bounds = difference_bounds(pairs.tuned, pairs.other, pairs.groups)
    return _result(gate, bounds, other.arm, pairs.p_value if gate.at_least == 0 else None)


def _opponent(scores: tuple[ArmScores, ...], gate: Gate) -> ArmScores | None:
    """What tuned is held against; of baselines the one with the best mean."""
    if gate.gain_over == "best_baseline":
        candidates = [
            each for each in scores if each.arm == "few_shot" or (each.is_rule and not each.is_reference)
        ]
    else:
        candidates = [each for each in scores if each.arm == (gate.gain_over or "base")]
    scored = [(each.overall.mean, each) for each in candidates if each.overall is not None]
    return max(scored, key=lambda pair: pair[0])[1] if scored else None


def _pair(report: EvalReport, tuned: ArmScores, other: ArmScores) -> _Pairs:
    items = [item for item in tuned.scores if item in other.scores]
    return _Pairs(
        [tuned.scores[item] for item in items],
        [other.scores[item] for item in items],
        [report.groups[tuned.set][item] for item in items],
    )


def _result(
    gate: Gate, bounds: Bounds, compared_with: str | None = None, p_value: float | None = None
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
    )
    outcome = _outcome(bounds, result.threshold, p_value)
    note = _note(bounds, result.threshold) if outcome == "inconclusive" else ""
    return result.model_copy(update={"outcome": outcome, "note": note})


def _outcome(bounds: Bounds, threshold: float, p_value: float | None) -> Outcome:
    if bounds.low is not None and bounds.low > threshold and (p_value is None or p_value < ALPHA):
        return "pass"
    return "fail" if bounds.high is not None and bounds.high < threshold else "inconclusive"


def _note(bounds: Bounds, threshold: float) -> str:
    if bounds.low is None:
        return f"{bounds.num_groups} group{'s' * (bounds.num_groups != 1)}: too few to bound the value"
    rows = rows_to_settle(bounds, threshold)
    return f"about {rows} rows would settle it" if rows else "at the threshold; more rows may not settle it"


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
    if gate.max_drop is not None:
        return f"{gate.metric} drop < {gate.max_drop:g}"
    assert gate.at_least is not None
    if gate.gain_over is None:
        return f"{gate.metric} >= {gate.at_least:g}"
    sign = ">" if gate.at_least == 0 else ">="
    return f"{gate.metric} gain over {gate.gain_over} {sign} {gate.at_least:g}"
