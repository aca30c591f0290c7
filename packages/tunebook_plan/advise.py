"""Prompting, retrieval or fine-tuning: what the rules say, weighed."""

from __future__ import annotations

from collections.abc import Sequence

from tunebook_plan.costs import WAYS, BreakEven, WayCost, break_even, way_costs
from tunebook_plan.facts import Facts, Way
from tunebook_plan.measured_rules import MEASURED, is_ahead, lead
from tunebook_plan.rules import THUMB, Finding
from tunebook_spec.fields import Frozen


class Advice(Frozen):
    scenario: str
    way: Way
    reason: str
    findings: tuple[Finding, ...]
    costs: tuple[WayCost, ...]
    break_even: tuple[BreakEven, ...]
    rests_on: tuple[str, ...]
    """What was looked at, and what is missing."""

    @property
    def lines(self) -> tuple[str, str]:
        """In short: the way, and what speaks against it."""
        speaks = "against" if self.way == "tuning" else "for"
        against = [each for each in self.findings if each.way == "tuning" and each.speaks == speaks]
        told = f"{against[0].reason} ({against[0].saw})" if against else "nothing that is known"
        return f"{self.way}: {self.reason}", f"against it: {told}"


def advise(facts: Facts) -> Advice:
    """Weigh what is known; a pure function."""
    findings = tuple(_findings(facts))
    way, reason = _recommend(facts, findings)
    return Advice(
        scenario=facts.spec.name,
        way=way,
        reason=reason,
        findings=findings,
        costs=way_costs(facts),
        break_even=break_even(facts),
        rests_on=tuple(_rests_on(facts)),
    )


def _findings(facts: Facts) -> list[Finding]:
    found = ((rule, rule(facts)) for rule in (*MEASURED, *THUMB))
    return [said.model_copy(update={"rule": rule.__name__}) for rule, said in found if said]


def _recommend(facts: Facts, findings: Sequence[Finding]) -> tuple[Way, str]:
    """Needs of the user come first, since no report can see them; then a report; then rules of thumb."""
    measured = facts.measured
    needs = [each for each in findings if each.basis == "need"]
    forbids = [each for each in needs if each.way == "tuning" and each.speaks == "against"]
    looks_up = [each for each in needs if each.way == "retrieval"]
    ahead = f", though {lead(measured)}" if measured and is_ahead(measured) else ""
    if forbids:
        way: Way = (
            "retrieval" if looks_up or forbids[0].rule == "no_tuning_for_current_facts" else "prompting"
        )
        return way, f"{forbids[0].reason} ({forbids[0].saw}){ahead}"
    if looks_up and not any(each.way == "tuning" for each in needs):
        return "retrieval", f"{looks_up[0].reason} ({looks_up[0].saw}){ahead}"
    if measured and is_ahead(measured):
        return "tuning", f"{lead(measured)} (run {measured.run})"
    if measured and measured.lead_over:
        other = measured.score(measured.lead_over)
        assert other is not None
        why = next(each for each in findings if each.rule == "something_else_is_as_good")
        return other.way, f"{why.reason}: {why.saw} (run {measured.run})"
    return _by_thumb(findings)


def _by_thumb(findings: Sequence[Finding]) -> tuple[Way, str]:
    """What most rules speak for; of equals the way that costs least to change."""
    blocked = [each for each in findings if each.way == "tuning" and each.speaks == "against"]
    ways = [way for way in WAYS if way != "rule" and not (way == "tuning" and blocked)]
    speaking = {way: [each for each in findings if each.way == way and each.speaks == "for"] for way in ways}
    best = max(ways, key=lambda way: (any(f.basis == "need" for f in speaking[way]), len(speaking[way])))
    if best == "prompting" and blocked:
        return best, f"{blocked[0].reason} ({blocked[0].saw})"
    reasons = sorted(speaking[best], key=lambda each: each.basis != "need")
    return best, "; ".join(f"{each.reason} ({each.saw})" for each in reasons[:2])


def _rests_on(facts: Facts) -> list[str]:
    measured, rows = facts.measured, facts.rows
    told = []
    if measured is None:
        told.append("no run has measured this spec: quality, tokens and seconds are unknown until one has")
    elif measured.is_of_this_spec:
        told.append(f"run {measured.run} has measured this spec")
    else:
        told.append(f"run {measured.run} has measured an earlier state of this spec")
    if rows is None:
        told.append(
            "rows were not counted: they are many; `tunebook advise` or a run's `prepare` counts them"
        )
    else:
        tasks = ", ".join(f"{num} {task}" for task, num in rows.train.items())
        told.append(f"rows to train on: {tasks}; {rows.test} to test on ({rows.origin})")
    if facts.price_per_hour is None:
        told.append("money is unknown: TUNEBOOK_PRICE_PER_HOUR is not set, or a cluster trains")
    if facts.spec.needs == type(facts.spec.needs)():
        told.append("nothing is said under `needs`: whether facts change, how soon to update, the budget")
    return told
