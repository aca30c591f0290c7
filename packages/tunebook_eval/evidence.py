"""What evaluation found, as a file: every number with its n and its error, and the scores behind it."""

from __future__ import annotations

from tunebook_spec.models import Frozen, Metric


class Estimate(Frozen):
    num_samples: int
    num_groups: int
    mean: float
    stderr: float | None
    """Clustered by group; none: a single group."""
    ci95: tuple[float, float] | None
    """Two-sided; none: too few groups to say."""


class ArmScores(Frozen):
    """One metric of one set for one arm."""

    set: str
    metric: Metric
    arm: str
    """An arm of the spec, or the name of a rule."""
    is_rule: bool
    """Answered without a model."""
    is_reference: bool = False
    """A rule that is shown for comparison and that nothing has to beat."""
    overall: Estimate | None
    """None: nothing could be scored."""
    strata: dict[str, Estimate]
    num_unscored: int
    scores: dict[str, float]
    """By item; what could not be scored is left out."""


class ArmOnSet(Frozen):
    """How one model answered one set, whatever the score."""

    set: str
    arm: str
    num_answers: int
    stop_rate: float
    """Share of answers that the model ended by itself."""
    mean_completion_tokens: float


class ArmCost(Frozen):
    arm: str
    num_answers: int
    num_errors: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float


class Flip(Frozen):
    """An item that only one of base and tuned gets right."""

    set: str
    item: str
    question: str
    lost: bool
    """Base was right and tuned is not."""
    base: str
    tuned: str


class Example(Frozen):
    """One item's answers side by side."""

    set: str
    item: str
    question: str
    expected: str
    stratum: str | None
    answers: dict[str, str]
    """By arm."""
    scores: dict[str, float]
    """By arm, under the set's first metric."""


class EvalReport(Frozen):
    scores: tuple[ArmScores, ...]
    groups: dict[str, dict[str, str]]
    """Item -> group, by set."""
    answering: tuple[ArmOnSet, ...]
    costs: tuple[ArmCost, ...]
    flips: tuple[Flip, ...]
    """Of sets that watch for forgetting, lost items first."""
    examples: tuple[Example, ...]
    """A sample of every set, worst regressions first."""
    warnings: tuple[str, ...]

    def of(self, metric: str) -> tuple[ArmScores, ...]:
        """Every arm's scores for `set.metric`."""
        return tuple(each for each in self.scores if f"{each.set}.{each.metric}" == metric)
