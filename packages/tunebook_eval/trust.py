"""Whether a judge's word decides anything: only where golden rows show that it agrees with people."""

from __future__ import annotations

from collections.abc import Mapping

from tunebook_eval.evidence import Calibration, EvalReport, JudgeEvidence, PairCalibration

MIN_GOLDEN = 20
"""Fewer golden rows, or pairs of them, calibrate nothing."""
LENGTH_ALPHA = 0.05
"""A length bias that chance makes as often as this is none."""


def advisory(report: EvalReport, bounds: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """The metrics that are only shown, each with the reason.

    Args:
        report: What `evaluate` found.
        bounds: What each judge's calibration is held to, by `set.metric` and field.
    """
    found = {each.name: distrust(each, bounds[each.name]) for each in report.judges}
    return {name: reason for name, reason in found.items() if reason is not None}


def distrust(judge: JudgeEvidence, bounds: Mapping[str, float]) -> str | None:
    """Why a judged metric may decide nothing; None: it may."""
    if judge.calibration is None:
        return "the judge is not calibrated: the spec names no `golden` set"
    if isinstance(judge.calibration, Calibration):
        return _scores(judge.calibration, **bounds)
    return _pairs(judge.calibration, **bounds)


def _scores(found: Calibration, min_spearman: float, max_length_bias: float) -> str | None:
    if found.num_scored < MIN_GOLDEN:
        return f"the judge could score {found.num_scored} golden answers, and {MIN_GOLDEN} are the least"
    if found.spearman is None or found.spearman_low is None:
        return "the judge gives every golden answer the same score"
    if found.spearman_low <= min_spearman:
        return (
            f"the judge's rank correlation with people is {found.spearman:.2f}, 95 % above"
            f" {found.spearman_low:.2f}, and min_spearman is {min_spearman:g}"
        )
    bias, p_value = found.length_bias, found.length_bias_p
    if bias is not None and p_value is not None and abs(bias) > max_length_bias and p_value < LENGTH_ALPHA:
        liked = "longer" if bias > 0 else "shorter"
        return (
            f"the judge likes {liked} answers: its rank correlation with length is {bias:.2f} among answers"
            f" of like golden score, and max_length_bias is {max_length_bias:g}"
        )
    return None


def _pairs(found: PairCalibration, min_agreement: float) -> str | None:
    if found.num_scored < MIN_GOLDEN:
        return f"the judge could compare {found.num_scored} golden pairs, and {MIN_GOLDEN} are the least"
    if found.agreement is None or found.agreement_low is None:
        return "the golden pairs are of too few prompts to say how often the judge agrees with people"
    if found.agreement_low <= min_agreement:
        return (
            f"the judge prefers what people prefer in {found.agreement:.2f} of the golden pairs, 95 % above"
            f" {found.agreement_low:.2f}, and min_agreement is {min_agreement:g}"
        )
    shorter = found.shorter_agreed
    if shorter is not None and shorter.ci95 is not None and shorter.ci95[1] < 0.5:
        return (
            f"the judge likes longer answers: where people prefer the shorter of two, it agrees in"
            f" {shorter.mean:.2f} of {shorter.num_samples} golden pairs"
        )
    return None
