"""What each way costs per query and per update, and when an update is repaid. What is unknown is None."""

from __future__ import annotations

from tunebook_plan.facts import Facts, Measured, Way
from tunebook_spec.fields import Frozen

WAYS: tuple[Way, ...] = ("prompting", "retrieval", "rule", "tuning")


class WayCost(Frozen):
    way: Way
    arm: str | None
    """What stands for the way: the best of its arms; none: none was measured."""
    quality: float | None
    stderr: float | None
    consistency: float | None
    prompt_tokens: float | None
    seconds: float | None
    """Of a query."""
    cost_of_1000: float | None
    """Money for 1,000 queries."""
    update: str
    """What an update is, in words."""
    update_s: float | None
    update_cost: float | None


class BreakEven(Frozen):
    """The volume at which shorter prompts have repaid an update of the tuned model, in machine time."""

    against: str
    queries: float | None
    """None: the tuned model answers no faster, so never."""
    months: float | None
    """By needs.queries_per_month; none: not said, or never."""


UPDATES: dict[Way, str] = {
    "prompting": "edit the prompt",
    "retrieval": "embed the new rows",
    "rule": "edit the program",
    "tuning": "train and merge anew",
}
FREE: tuple[Way, ...] = ("prompting", "rule")


def way_costs(facts: Facts) -> tuple[WayCost, ...]:
    """One for each way; a rule only where one was measured."""
    costs = (_cost(way, facts) for way in WAYS)
    return tuple(each for each in costs if each.way != "rule" or each.arm)


def _cost(way: Way, facts: Facts) -> WayCost:
    measured = facts.measured
    best = measured.best(way) if measured else None
    query = measured.query(best.arm) if measured and best else None
    price = None if facts.price_per_hour is None else facts.price_per_hour / 3600
    update_s = 0.0 if way in FREE else None
    if way == "tuning" and measured:
        update_s = measured.update_s
    seconds = query.seconds if query else None
    return WayCost(
        way=way,
        arm=best.arm if best else None,
        quality=best.mean if best else None,
        stderr=best.stderr if best else None,
        consistency=measured.consistency.get(best.arm) if measured and best else None,
        prompt_tokens=query.prompt_tokens if query else None,
        seconds=seconds,
        cost_of_1000=query.cost_of_1000(price) if query else None,
        update=UPDATES[way],
        update_s=update_s,
        update_cost=0.0 if way in FREE else None if update_s is None or price is None else update_s * price,
    )


def break_even(facts: Facts) -> tuple[BreakEven, ...]:
    """Against each arm with rows in its prompt; none where the report does not tell the times."""
    if facts.measured is None or facts.measured.update_s is None:
        return ()
    found = (_break_even(arm, facts.measured, facts) for arm in ("few_shot", "retrieval"))
    return tuple(each for each in found if each)


def _break_even(arm: str, measured: Measured, facts: Facts) -> BreakEven | None:
    tuned, other = measured.query("tuned"), measured.query(arm)
    if tuned is None or other is None or tuned.seconds is None or other.seconds is None:
        return None
    saved = other.seconds - tuned.seconds
    if saved <= 0 or measured.update_s is None:
        return BreakEven(against=arm, queries=None, months=None)
    queries, volume = measured.update_s / saved, facts.spec.needs.queries_per_month
    return BreakEven(against=arm, queries=queries, months=queries / volume if volume else None)
