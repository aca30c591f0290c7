"""What a run's report says of the ways; it goes before any rule of thumb."""

from __future__ import annotations

from tunebook_plan.facts import Facts, Measured
from tunebook_plan.rules import Finding, Rule


def tuning_is_ahead(facts: Facts) -> Finding | None:
    measured = facts.measured
    if measured is None or not is_ahead(measured):
        return None
    reason = f"tuned is ahead of {measured.lead_over}, the best of the rest, beyond chance"
    return Finding(way="tuning", speaks="for", basis="measured", reason=reason, saw=lead(measured))


def something_else_is_as_good(facts: Facts) -> Finding | None:
    measured = facts.measured
    if measured is None or measured.lead_over is None or is_ahead(measured):
        return None
    how = "is as good as tuned within its interval"
    if measured.high is None:
        how = "may be as good as tuned, for all that so few groups can tell"
    elif measured.high < 0:
        how = "is better than tuned"
    reason = f"{measured.lead_over} {how}"
    return Finding(way="tuning", speaks="against", basis="measured", reason=reason, saw=lead(measured))


def tuning_forgets(facts: Facts) -> Finding | None:
    if facts.measured is None or not facts.measured.worse:
        return None
    saw = f"{', '.join(facts.measured.worse)} fell beyond chance"
    reason = "tuning has cost what the model could do before: rehearse more (data.replay), or train less"
    return Finding(way="tuning", speaks="against", basis="measured", reason=reason, saw=saw)


def tuning_is_more_consistent(facts: Facts) -> Finding | None:
    found = facts.measured.consistency if facts.measured else {}
    if "tuned" not in found or "few_shot" not in found or found["tuned"] <= found["few_shot"]:
        return None
    saw = f"consistency {found['tuned']:.3f} tuned, {found['few_shot']:.3f} with few-shot"
    reason = "its answers hang less on how one asks"
    return Finding(way="tuning", speaks="for", basis="measured", reason=reason, saw=saw)


def retrieval_beats_fixed_examples(facts: Facts) -> Finding | None:
    measured = facts.measured
    retrieval, prompting = (
        (measured.best("retrieval"), measured.best("prompting")) if measured else (None,) * 2
    )
    if measured is None or retrieval is None or prompting is None or retrieval.mean <= prompting.mean:
        return None
    saw = f"{measured.metric} {retrieval.mean:.3f}, with {prompting.arm} {prompting.mean:.3f}"
    reason = "rows found for each question do better than a fixed prompt"
    return Finding(way="retrieval", speaks="for", basis="measured", reason=reason, saw=saw)


def is_ahead(measured: Measured) -> bool:
    return measured.lead_over is not None and measured.low is not None and measured.low > 0


def lead(measured: Measured) -> str:
    """The two values, and how far apart they may be."""
    tuned, other = measured.score("tuned"), measured.score(measured.lead_over or "")
    assert tuned is not None
    assert other is not None
    sure = "too few groups to bound it"
    if measured.low is not None and measured.high is not None:
        sure = f"95 % above {measured.low:.3f} and below {measured.high:.3f}"
    values = f"{measured.metric} {tuned.mean:.3f} tuned, {other.mean:.3f} {other.arm}"
    return f"{values}; {measured.lead:+.3f}, {sure}"


MEASURED: tuple[Rule, ...] = (
    tuning_is_ahead,
    something_else_is_as_good,
    tuning_forgets,
    tuning_is_more_consistent,
    retrieval_beats_fixed_examples,
)
