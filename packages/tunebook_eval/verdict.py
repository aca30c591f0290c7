"""What the gates say of the evidence."""

from __future__ import annotations

from collections import Counter
from typing import Literal, get_args

from pydantic import Field

from tunebook_spec.evaluation import Gate
from tunebook_spec.fields import Frozen

REPORT, SUMMARY, EVIDENCE = PAGES = ("report.html", "summary.md", "report.json")
"""What `decide` leaves: a page, a summary for a pull request, and verdict and evidence for programs."""
Outcome = Literal["pass", "fail", "inconclusive"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


class GateResult(Frozen):
    gate: Gate
    outcome: Outcome
    rule: str
    """The gate in a phrase, e.g. `glossary.line_match >= 0.85`."""
    value: float | None
    """The metric, or the difference that is judged; none: nothing to judge."""
    low: float | None
    """With 95 % confidence the value is above this."""
    high: float | None
    """With 95 % confidence the value is below this."""
    num_samples: int
    compared_with: str | None = None
    """The arm or rule that the gate's arm is held against."""
    p_value: float | None = None
    """Exact McNemar, where a gain of a 0/1 score is held against zero."""
    detectable: float | None = None
    """How far from the threshold the truth must be for this many rows to show it, 4 times in 5."""
    note: str = ""
    """Why it is inconclusive, or how many rows would settle it."""

    @property
    def threshold(self) -> float:
        """What the value is held against; a drop is a negative gain."""
        gate = self.gate
        bound = gate.at_least if gate.at_least is not None else gate.at_most
        return bound if bound is not None else -(gate.max_drop or 0.0)

    def line(self, width: int = 0) -> str:
        """Outcome, rule and evidence in one line; rules are padded to `width`."""
        return f"{self.outcome:<13} {self.rule:<{width}}  {self.evidence}"

    @property
    def evidence(self) -> str:
        """The value, its bound and what is to be said of them."""
        if self.value is None:
            return self.note
        sign = -1 if self.gate.max_drop is not None else 1
        upper = (self.gate.at_most is not None) != (self.outcome == "fail")
        bound = self.high if upper else self.low
        side = "below" if upper != (sign < 0) else "above"
        sure = "no bound" if bound is None else f"95 % {side} {sign * bound:.3f}"
        against = f", against {self.compared_with}" if self.compared_with else ""
        note = f"; {self.note}" if self.note else ""
        return f"{sign * self.value + 0.0:.3f}, {sure} (n={self.num_samples}){against}{note}"


class GateVerdict(Frozen):
    results: tuple[GateResult, ...]
    advisory: dict[str, str] = Field(default_factory=dict)
    """Metrics of judges that decide no gate, each with the reason."""

    @property
    def outcome(self) -> Outcome:
        """Fail if any gate fails, else inconclusive if any is, else pass."""
        outcomes = {each.outcome for each in self.results}
        return "fail" if "fail" in outcomes else "inconclusive" if "inconclusive" in outcomes else "pass"

    @property
    def advice(self) -> tuple[str, ...]:
        """What to try where more of an ability was lost than a gate allows, or may have been."""
        return tuple(
            f"{each.gate.metric} {'fell' if each.outcome == 'fail' else 'may have fallen'} too far: rehearse"
            " more (data.replay.share), lower method.learning_rate, or train fewer method.epochs"
            for each in self.results
            if each.gate.max_drop is not None and each.outcome != "pass" and (each.value or 0) < 0
        )

    @property
    def exit_status(self) -> int:
        return {"pass": 0, "fail": 3, "inconclusive": 4}[self.outcome]

    @property
    def lines(self) -> tuple[str, ...]:
        """One per gate, one per metric that decides none, and the verdict."""
        width = max(len(each.rule) for each in self.results)
        counts = Counter(each.outcome for each in self.results)
        summary = ", ".join(f"{counts[kind]} {kind}" for kind in OUTCOMES)
        gates = (each.line(width) for each in self.results)
        shown = (
            f"advisory      {name}: no gate passes or fails by it; {reason}"
            for name, reason in self.advisory.items()
        )
        return (*gates, *shown, f"verdict: {self.outcome} ({summary})")
