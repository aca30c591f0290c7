"""What advice rests on: the spec, its rows, and what a run has measured."""

from __future__ import annotations

from typing import Literal

from tunebook_eval.evidence import QueryCost
from tunebook_spec import Spec
from tunebook_spec.fields import Frozen
from tunebook_spec.method import DpoObjective
from tunebook_spec.needs import Taught

Way = Literal["prompting", "retrieval", "rule", "tuning"]
"""`rule` is a program without a model, for which a run's baselines stand."""


class RowFacts(Frozen):
    """What is known of the rows to train on."""

    origin: str
    """Where it was read."""
    train: dict[str, int]
    """Training rows by task, rehearsed ones aside."""
    test: int
    rows_in: int
    flawed: int
    """Of those that came in: rejected, repeated, or flagged."""
    looked_at: int
    """Training rows that the numbers below are of."""
    answers: int
    """Different answers among them."""
    question_chars: float
    """Mean; all that stands before the answer."""
    shown_chars: float
    """Mean; what a few-shot prompt shows of a row: all but the system message."""

    @property
    def num_train(self) -> int:
        return sum(self.train.values())


class Score(Frozen):
    arm: str
    way: Way
    mean: float
    stderr: float | None


class Measured(Frozen):
    """What a run's report says."""

    run: str
    is_of_this_spec: bool
    """Whether the spec is still what ran; needs, problem and gates aside."""
    metric: str
    """The one that the gates ask a gain of, else the first gated one of a task."""
    scores: tuple[Score, ...]
    lead_over: str | None
    """The best arm or rule beside tuned; none: nothing to compare."""
    lead: float
    """Tuned minus that one, over the items that both have."""
    low: float | None
    """With 95 % confidence the lead is above this; none: too few groups to say."""
    high: float | None
    queries: tuple[QueryCost, ...]
    """A query of each arm, over the sets that all arms answered."""
    update_s: float | None
    """Training and merging; none: the run tells of none."""
    worse: tuple[str, ...]
    """Metrics of sets that watch for forgetting that tuning has made worse, beyond chance."""
    consistency: dict[str, float]
    """By arm, the mean over the sets that measure it."""

    def score(self, arm: str) -> Score | None:
        return next((each for each in self.scores if each.arm == arm), None)

    def query(self, arm: str) -> QueryCost | None:
        return next((each for each in self.queries if each.arm == arm), None)

    def best(self, way: Way) -> Score | None:
        return max((each for each in self.scores if each.way == way), key=lambda s: s.mean, default=None)


class Facts(Frozen):
    spec: Spec
    rows: RowFacts | None
    """None: they were not counted."""
    measured: Measured | None
    """None: no run has measured this."""
    price_per_hour: float | None
    """Of this machine; none: not known."""

    @property
    def taught(self) -> dict[Taught, str]:
        """What answers are to learn, and what says so."""
        found: dict[Taught, str] = {}
        for name, each in self.spec.evaluation.sets.items():
            for metric in each.metrics:
                if metric.kind in ("json_valid", "json_schema", "json_fields"):
                    found.setdefault("format", f"{name} is scored by {metric.kind}")
                if metric.kind in ("rules", "code_ruff"):
                    found.setdefault("style", f"{name} is scored by {metric.kind}")
        if schemas := self.spec.data.checks.answer_schema:
            found["format"] = f"data.checks.answer_schema for {', '.join(schemas)}"
        if isinstance(self.spec.method.objective, DpoObjective):
            found["removal"] = "method.objective is dpo"
        return found | dict.fromkeys(self.spec.needs.teach, "needs.teach")
