"""What evaluation found, as a file: every number with its n and its error, and the scores behind it."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict

from tunebook_spec.models import Frozen


class Estimate(Frozen):
    num_samples: int
    num_groups: int
    mean: float
    stderr: float | None
    """Clustered by group; none: a single group."""
    ci95: tuple[float, float] | None
    """Two-sided; none: too few groups to say."""


class ArmScores(Frozen):
    """One metric of one set, or a part of it, for one arm."""

    set: str
    metric: str
    """Its name, or `name.part`; `stop_rate` and `answer_tokens` where a model answered prompts."""
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
    unscored: Estimate | None = None
    """Share of the answers that could not be scored; none for a part."""
    scores: dict[str, float]
    """By item; what could not be scored is left out, and of a part the items that it says nothing of."""


class Change(Frozen):
    """What tuning did to one metric: tuned minus base, item by item."""

    set: str
    metric: str
    num_samples: int
    num_groups: int
    mean: float
    ci95: tuple[float, float] | None
    """Two-sided; none: too few groups to say."""
    p_value: float | None
    """Two-sided; none: a single group."""
    adjusted_p_value: float | None
    """By Holm, for all metrics of the report."""

    @property
    def outcome(self) -> Literal["improved", "worse", "unclear"]:
        """Improved or worse where chance is excluded, all metrics considered, at 0.05."""
        if self.adjusted_p_value is None or self.adjusted_p_value >= 0.05:
            return "unclear"
        return "improved" if self.mean > 0 else "worse"


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
    model_config = ConfigDict(extra="ignore")  # reports of before say things that nothing reads any more

    scores: tuple[ArmScores, ...]
    groups: dict[str, dict[str, str]]
    """Item -> group, by set."""
    costs: tuple[ArmCost, ...]
    changes: tuple[Change, ...] = ()
    """Of every metric that the spec names; none in reports of before."""
    flips: tuple[Flip, ...]
    """Of sets that watch for forgetting, lost items first."""
    examples: tuple[Example, ...]
    """A sample of every set, worst regressions first."""
    warnings: tuple[str, ...]

    def of(self, metric: str) -> tuple[ArmScores, ...]:
        """Every arm's scores for `set.metric`."""
        return tuple(each for each in self.scores if f"{each.set}.{each.metric}" == metric)
