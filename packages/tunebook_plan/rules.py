"""The field's rules for prompting, retrieval or tuning: each a function of the facts, with its reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from tunebook_data.manifest import FEW_ROWS, size_advice
from tunebook_plan.facts import Facts, Way
from tunebook_spec.fields import Frozen

Basis = Literal["measured", "need", "thumb"]
"""What a rule goes by: a run's report, what the user says under `needs`, or the field's rule of thumb."""

SIMPLE_ANSWERS = 10
"""A task with no more different answers is simple: a choice."""
ENOUGH_TO_TELL = 30
"""Rows in which so few answers are no accident."""
GOOD_ROWS, STRONG_ROWS, FULL_ROWS = 500, 1000, 10_000
FLAWED_SHARE = 0.05
LONGER_PROMPT = 1.5
"""Times the tuned model's prompt, from which few-shot's is long."""
CURRENT = ("monthly", "weekly", "daily")
LIVE = ("weekly", "daily")


class Finding(Frozen):
    """What one rule says."""

    rule: str = ""
    way: Way
    speaks: Literal["for", "against"]
    basis: Basis
    reason: str
    saw: str


Rule = Callable[[Facts], Finding | None]


def _says(way: Way, speaks: Literal["for", "against"], basis: Basis, reason: str, saw: str) -> Finding:
    return Finding(way=way, speaks=speaks, basis=basis, reason=reason, saw=saw)


def _taught(
    facts: Facts,
    what: Literal["style", "format", "terms", "behaviour", "facts", "removal"],
    way: Way,
    reason: str,
) -> Finding | None:
    saw = facts.taught.get(what)
    if saw is None:
        return None
    return _says(way, "for", "need" if saw.startswith("needs") else "thumb", reason, saw)


def prompting_costs_no_update(facts: Facts) -> Finding | None:
    return _says("prompting", "for", "thumb", "a prompt is changed in a minute, at no cost", "always so")


def prompting_asks_for_style_and_format(facts: Facts) -> Finding | None:
    saw = [why for what, why in facts.taught.items() if what in ("style", "format")]
    if not saw:
        return None
    return _says("prompting", "for", "thumb", "style and format can be asked for in words", "; ".join(saw))


def prompting_does_simple_tasks(facts: Facts) -> Finding | None:
    if (saw := _simple(facts)) is None:
        return None
    return _says("prompting", "for", "thumb", "a simple task needs no more than a prompt", saw)


def retrieval_brings_facts(facts: Facts) -> Finding | None:
    return _taught(
        facts, "facts", "retrieval", "what is looked up can be cited and corrected; weights cannot"
    )


def retrieval_reads_live_data(facts: Facts) -> Finding | None:
    change = facts.spec.needs.facts_change
    if change not in LIVE:
        return None
    return _says("retrieval", "for", "need", "live data are read when asked", f"needs.facts_change: {change}")


def retrieval_keeps_private_data_apart(facts: Facts) -> Finding | None:
    if not facts.spec.needs.private_data:
        return None
    reason = "a store can check who may read what, and forget; weights tell everyone"
    return _says("retrieval", "for", "need", reason, "needs.private_data: true")


def tuning_changes_behaviour(facts: Facts) -> Finding | None:
    return _taught(
        facts, "behaviour", "tuning", "how a model behaves is learnt from examples, not from facts"
    )


def tuning_holds_a_style(facts: Facts) -> Finding | None:
    return _taught(facts, "style", "tuning", "a tuned model holds one style in every answer")


def tuning_teaches_terms(facts: Facts) -> Finding | None:
    return _taught(facts, "terms", "tuning", "a domain and its terms are learnt from many examples")


def tuning_holds_a_format(facts: Facts) -> Finding | None:
    reason = "a tuned model keeps to one's format without being told"
    return _taught(facts, "format", "tuning", reason)


def tuning_removes_capabilities(facts: Facts) -> Finding | None:
    return _taught(facts, "removal", "tuning", "a prompt can be talked around; weights that lack it less so")


def tuning_shortens_prompts(facts: Facts) -> Finding | None:
    """Few-shot examples become weights."""
    reason = "what examples in the prompt show is in the weights"
    if facts.measured and (few := facts.measured.query("few_shot")):
        tuned = facts.measured.query("tuned")
        if tuned is None or few.prompt_tokens < LONGER_PROMPT * tuned.prompt_tokens:
            return None
        saw = f"prompts of {few.prompt_tokens:.0f} tokens with few-shot, {tuned.prompt_tokens:.0f} tuned"
        return _says("tuning", "for", "measured", reason, saw)
    rows = facts.rows
    if rows is None or not rows.looked_at or "few_shot" not in facts.spec.evaluation.arm_names:
        return None
    k = facts.spec.evaluation.few_shot.k
    times = 1 + k * rows.shown_chars / max(rows.question_chars, 1)
    if times < LONGER_PROMPT:
        return None
    return _says("tuning", "for", "thumb", reason, f"{k} rows shown make a prompt {times:.1f} times as long")


def tuning_answers_faster(facts: Facts) -> Finding | None:
    if not facts.spec.needs.fast_answers:
        return None
    measured = facts.measured
    tuned, few = (measured.query(arm) for arm in ("tuned", "few_shot")) if measured else (None, None)
    if tuned and few and tuned.seconds is not None and few.seconds is not None:
        if tuned.seconds >= few.seconds:
            return None
        saw = f"{tuned.seconds:.3f} s an answer tuned, {few.seconds:.3f} s with few-shot"
        return _says("tuning", "for", "measured", "shorter prompts and answers are faster", saw)
    saw = "needs.fast_answers: true"
    return _says("tuning", "for", "need", "a small tuned model with a short prompt is fast", saw)


def tuning_has_examples(facts: Facts) -> Finding | None:
    """500 are good, 1000 strong, 10,000 enough for full capability."""
    num = facts.rows.num_train if facts.rows else 0
    if num < GOOD_ROWS:
        return None
    reason = "there are enough examples" if num < STRONG_ROWS else "1,000 good examples or more teach well"
    if num >= FULL_ROWS:
        reason = "10,000 examples teach a capability whole"
    return _says("tuning", "for", "thumb", reason, size_advice(num))


def no_tuning_for_current_facts(facts: Facts) -> Finding | None:
    change = facts.spec.needs.facts_change
    if change not in CURRENT:
        return None
    reason = "weights know the facts of the day they were trained"
    return _says("tuning", "against", "need", reason, f"needs.facts_change: {change}")


def no_tuning_on_few_examples(facts: Facts) -> Finding | None:
    """50 to 100 work but weakly."""
    if facts.rows is None or facts.rows.num_train >= FEW_ROWS:
        return None
    reason = f"under {FEW_ROWS} examples teach little"
    return _says("tuning", "against", "thumb", reason, size_advice(facts.rows.num_train))


def no_tuning_on_flawed_examples(facts: Facts) -> Finding | None:
    """Quality over quantity."""
    rows = facts.rows
    if rows is None or not rows.rows_in or rows.flawed <= FLAWED_SHARE * rows.rows_in:
        return None
    saw = f"{rows.flawed} of {rows.rows_in} rows were rejected, repeated or flagged"
    return _says("tuning", "against", "thumb", "quality goes before quantity: mend the rows first", saw)


def no_tuning_for_simple_tasks(facts: Facts) -> Finding | None:
    if (saw := _simple(facts)) is None:
        return None
    return _says("tuning", "against", "thumb", "a simple task does not repay training", saw)


def no_tuning_where_updates_are_urgent(facts: Facts) -> Finding | None:
    within = facts.spec.needs.update_within
    if within not in ("hours", "days"):
        return None
    reason = "a prompt is debugged at once; a model is trained and evaluated anew"
    return _says("tuning", "against", "need", reason, f"needs.update_within: {within}")


def no_tuning_on_a_tight_budget(facts: Facts) -> Finding | None:
    if not facts.spec.needs.tight_budget:
        return None
    reason = "training, evaluating and serving a model of one's own cost before the first answer"
    return _says("tuning", "against", "need", reason, "needs.tight_budget: true")


def _simple(facts: Facts) -> str | None:
    """What tells that a task is a choice among few answers."""
    rows = facts.rows
    if rows is None or rows.looked_at < ENOUGH_TO_TELL or rows.answers > SIMPLE_ANSWERS:
        return None
    return f"{rows.answers} different answers in {rows.looked_at} rows"


THUMB: tuple[Rule, ...] = (
    prompting_costs_no_update,
    prompting_asks_for_style_and_format,
    prompting_does_simple_tasks,
    retrieval_brings_facts,
    retrieval_reads_live_data,
    retrieval_keeps_private_data_apart,
    tuning_changes_behaviour,
    tuning_holds_a_style,
    tuning_teaches_terms,
    tuning_holds_a_format,
    tuning_removes_capabilities,
    tuning_shortens_prompts,
    tuning_answers_faster,
    tuning_has_examples,
    no_tuning_for_current_facts,
    no_tuning_on_few_examples,
    no_tuning_on_flawed_examples,
    no_tuning_for_simple_tasks,
    no_tuning_where_updates_are_urgent,
    no_tuning_on_a_tight_budget,
)
