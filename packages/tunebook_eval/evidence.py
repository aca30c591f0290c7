"""What evaluation found, as a file: every number with its n and its error, and the scores behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import ConfigDict, Field

from tunebook_eval.statistics import clustered_stderr, mean_bounds
from tunebook_spec.fields import Frozen

REPORT = "report.json"


class Estimate(Frozen):
    num_samples: int
    num_groups: int
    mean: float
    stderr: float | None
    """Clustered by group; none: a single group."""
    ci95: tuple[float, float] | None
    """Two-sided; none: too few groups to say."""

    @classmethod
    def of(cls, values: Sequence[float], groups: Sequence[str]) -> Estimate:
        """Of at least one value; rows of one group are alike."""
        bounds = mean_bounds(values, groups, alpha=0.025)
        return cls(
            num_samples=len(values),
            num_groups=bounds.num_groups,
            mean=bounds.mean,
            stderr=clustered_stderr(values, groups),
            ci95=None if bounds.low is None or bounds.high is None else (bounds.low, bounds.high),
        )

    @property
    def shown(self) -> str:
        """The mean and its error, as tables have it."""
        return f"{self.mean:.3f}" + (f" ± {self.stderr:.3f}" if self.stderr is not None else "")


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

    def outcome_of(self, *, is_unwanted: bool = False) -> Literal["improved", "worse", "unclear"]:
        """Improved or worse where chance is excluded, all metrics considered, at 0.05.

        Args:
            is_unwanted: less of the metric is better.
        """
        if self.adjusted_p_value is None or self.adjusted_p_value >= 0.05:
            return "unclear"
        return "improved" if (self.mean > 0) != is_unwanted else "worse"

    @property
    def shown(self) -> tuple[str, str, str, str, str]:
        """As tables have it: the difference, its interval, p, p by Holm, and how many rows."""
        interval = "-" if self.ci95 is None else f"{self.ci95[0]:+.3f} to {self.ci95[1]:+.3f}"
        p, adjusted = map(_p, (self.p_value, self.adjusted_p_value))
        return f"{self.mean:+.3f}", interval, p, adjusted, str(self.num_samples)


def _p(value: float | None) -> str:
    return "-" if value is None else "< 0.0001" if value < 0.0001 else f"{value:.4f}"


class ArmCost(Frozen):
    arm: str
    """Or what judged the arms, as `judge NAME`."""
    num_answers: int
    num_errors: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    cost: float | None = None
    """Money, of a judge or another model elsewhere whose prices are known."""


class QueryCost(Frozen):
    """What a query of a set took of an arm's model: the mean over answers, failed ones left out."""

    set: str
    arm: str
    num_queries: int
    prompt_tokens: float
    cached_tokens: float
    """Of the prompt's, those that the engine had read for an earlier prompt that began the same."""
    answer_tokens: float
    num_timed: int
    """Answers of the attempt that finished; an earlier, killed one may have left others."""
    seconds: float | None
    """The engine's time for the whole batch over the answers in it, its start not counted: what an answer
    takes of a busy machine, not how long one user waits. None: nothing was timed."""
    is_remote: bool = False
    """A model elsewhere, whose time costs nothing of this machine."""
    cost: float | None = None
    """Money for a query of such a model, by its prices; none: they are not known."""

    def cost_of_1000(self, price_per_s: float | None) -> float | None:
        """Money for 1,000 queries; none: not known.

        Args:
            price_per_s: money for a second of this machine; none: not known.
        """
        if self.is_remote:
            return None if self.cost is None else 1000 * self.cost
        return None if price_per_s is None or self.seconds is None else 1000 * self.seconds * price_per_s


class Flip(Frozen):
    """An item of a suite of which a metric says one thing for base and another for tuned."""

    set: str
    metric: str = ""
    """Which says so; empty in reports of before."""
    item: str
    question: str
    lost: bool
    """Base has it and tuned does not."""
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
    ended: dict[str, Literal["cut off", "failed"]] = Field(default_factory=dict)
    """By arm, how an answer ended that the model did not end itself."""
    shots: tuple[str, ...] = ()
    """Ids of the training rows that few_shot was shown before the prompt."""
    retrieved: tuple[str, ...] = ()
    """Those that retrieval was shown."""

    def shots_of(self, arm: str) -> tuple[str, ...]:
        return {"few_shot": self.shots, "retrieval": self.retrieved}.get(arm, ())


class GoldenPoint(Frozen):
    """A golden answer, as people and as the judge score it; 0 to 10."""

    line: int
    prompt: str
    answer: str
    golden: float
    judged: float | None
    """None: the judge could not be read."""
    said: str
    """The judge's reason."""


class Calibration(Frozen):
    """A judge that scores, held against people; none of its numbers where there is nothing to tell."""

    golden: str
    """The golden set, as the spec names it."""
    num_rows: int
    num_scored: int
    spearman: float | None
    """None: the judge gives every answer one score, or too few could be read."""
    spearman_low: float | None
    """With 95 % confidence it is above this."""
    kendall: float | None
    """Tau-b."""
    mean_absolute_error: float | None
    """In points of 10."""
    mean_error: float | None
    """In points of 10; above 0, the judge is the milder one."""
    length_bias: float | None
    """Rank correlation of the judge's score with the answer's length, among answers of like golden score."""
    length_bias_p: float | None
    """Two-sided."""
    points: tuple[GoldenPoint, ...]


class PairCalibration(Frozen):
    """A judge that compares, on pairs of golden answers to one prompt."""

    golden: str
    num_pairs: int
    num_scored: int
    agreement: float | None
    """Share of the pairs in which it prefers what people prefer, a tie counting half."""
    agreement_low: float | None
    """With 95 % confidence it is above this."""
    ties: float | None
    """Share of the pairs in which it says neither, or contradicts itself when they are swapped."""
    first_chosen: Estimate | None
    """Share of its answers for what stands first; half where the order means nothing to it."""
    longer_preferred: float | None
    """Share of the pairs of unlike length in which it prefers the longer, a tie counting half."""
    longer_better: float | None
    """The same by people."""
    shorter_agreed: Estimate | None = None
    """Of the pairs in which people prefer the shorter, the share in which it agrees, a tie counting half;
    none: there are none, or the report is of before."""


class JudgeEvidence(Frozen):
    """A metric that a supporting model measured, and what its word is worth."""

    set: str
    metric: str
    kind: Literal["judge", "pairwise"]
    role: str
    who: str
    reported_models: tuple[str, ...]
    by_probability: bool
    """It answered with one token, whose probabilities were read."""
    criteria: dict[str, str]
    repeats: int
    against: str | None = None
    """Of a comparison: the arm that tuned stands beside."""
    asked: int
    unscored: int
    faults: dict[str, int]
    """Of what is unscored, how many for which reason."""
    unseen: int
    """Questions not put to it, since they tell of tools or hold personal data."""
    repeat_sd: float | None = None
    """Standard deviation between repeats of one question, in points of 10, or of 1 for a comparison."""
    first_chosen: Estimate | None = None
    """As in the calibration, of the answers that were compared."""
    orders_disagree: float | None = None
    """Share of the comparisons that came out otherwise when the two were swapped."""
    is_tuned_or_base: bool
    is_teacher: bool
    calibration: Calibration | PairCalibration | None
    """None: there is no golden set."""

    @property
    def name(self) -> str:
        return f"{self.set}.{self.metric}"


class EvalReport(Frozen):
    model_config = ConfigDict(extra="ignore")  # reports of before say things that nothing reads any more

    scores: tuple[ArmScores, ...]
    groups: dict[str, dict[str, str]]
    """Item -> group, by set."""
    costs: tuple[ArmCost, ...]
    queries: tuple[QueryCost, ...] = ()
    """By set of prompts and arm; none in reports of before."""
    changes: tuple[Change, ...] = ()
    """Of every metric that the spec names; none in reports of before."""
    flips: tuple[Flip, ...]
    """Of sets that watch for forgetting, lost items first."""
    examples: tuple[Example, ...]
    """Of every set, worst regressions first; those of a large evaluation that would make the report too large
    are left out."""
    judges: tuple[JudgeEvidence, ...] = ()
    """One for each metric that a supporting model measured."""
    warnings: tuple[str, ...]

    def of(self, metric: str) -> tuple[ArmScores, ...]:
        """Every arm's scores for `set.metric`."""
        return tuple(each for each in self.scores if f"{each.set}.{each.metric}" == metric)

    @property
    def num_left_out(self) -> int:
        """Items that have no example."""
        return sum(map(len, self.groups.values())) - len(self.examples)
