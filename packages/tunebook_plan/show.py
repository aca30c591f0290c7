"""Advice for people: tables of ways, costs and rules."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from tunebook_plan.advise import Advice
from tunebook_plan.costs import WAYS, BreakEven, WayCost


def show(advice: Advice, console: Console) -> None:
    """The ways with what they cost, the rules that speak, what it rests on, and last the recommendation."""
    console.print(_costs(advice))
    console.print(_rules(advice))
    for each in advice.break_even:
        console.print(break_even_line(each), soft_wrap=True)
    for told in advice.rests_on:
        console.print(f"rests on: {told}", soft_wrap=True)
    console.print(f"advice: {advice.lines[0]}", soft_wrap=True)


def _costs(advice: Advice) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    headers = ("way", "measured by", "quality", "consistency", "prompt tokens", "s a query", "1,000 queries")
    for column in (*headers, "an update", "takes", "costs"):
        table.add_column(column, justify="left" if column in ("way", "measured by", "an update") else "right")
    for each in advice.costs:
        table.add_row(*_cells(each))
    return table


def _cells(cost: WayCost) -> tuple[str, ...]:
    quality = "?" if cost.quality is None else f"{cost.quality:.3f}"
    quality += "" if cost.stderr is None else f" ± {cost.stderr:.3f}"
    is_model = cost.way != "rule"
    return (
        cost.way,
        cost.arm or "-",
        quality,
        _number(cost.consistency, ".3f"),
        _number(cost.prompt_tokens, ".0f") if is_model else "-",
        _number(cost.seconds, ".3f") if is_model else "-",
        _number(cost.cost_of_1000, ".4f") if is_model else "-",
        cost.update,
        _number(cost.update_s, ".0f", " s"),
        _number(cost.update_cost, ".4f"),
    )


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "?" if value is None else f"{value:{form}}{unit}"


def _rules(advice: Advice) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for column in ("way", "", "rule", "by", "why", "saw"):
        table.add_column(column, no_wrap=column in ("way", "", "rule", "by"))
    for way in WAYS:
        for each in (found for found in advice.findings if found.way == way):
            table.add_row(way, each.speaks, each.rule, each.basis, each.reason, each.saw)
    return table


def break_even_line(found: BreakEven) -> str:
    """When an update is repaid by shorter prompts, in machine time."""
    if found.queries is None:
        return f"break-even: never against {found.against}: the tuned model answers no faster"
    months = "" if found.months is None else f", {found.months:.1f} months at needs.queries_per_month"
    repaid = f"an update of the tuned model is repaid after {found.queries:,.0f} queries"
    return f"break-even: against {found.against} {repaid}{months}, in seconds of this machine"
