"""The part `evaluation` of a spec: sets, gates, arms."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from tunebook_spec.fields import Frozen, Name, null_removes
from tunebook_spec.metrics import AnyMetric, Consistency, Judged

SuiteName = Literal["general"]
TextsName = Literal["fixed_texts"]
Arm = Literal["base", "few_shot", "retrieval", "tuned"]
PROMPTED: tuple[Arm, ...] = ("few_shot", "retrieval")
"""Arms in which the base is shown training rows of the task: they answer tasks alone."""
NO_ARMS = frozenset({"baselines", "best_baseline"})
"""What gates and stages call something else."""


class RunArm(Frozen):
    run: str = Field(pattern=r"^[a-z][a-z0-9_]*@[0-9]+$")
    """What an earlier run has trained, as `scenario@number`, which is the arm's name too; it answers anew."""

    @property
    def name(self) -> str:
        return self.run


class ModelArm(Frozen):
    model: Name
    """A role under `models`, such as an endpoint, and the arm's name. It scores no fixed texts."""

    @property
    def name(self) -> str:
        return self.model


def _arm_tag(value: Any) -> str | None:
    if isinstance(value, str):
        return "Arm"
    keys = set(value) if isinstance(value, dict) else set(type(value).model_fields)
    return "RunArm" if "run" in keys else "ModelArm" if "model" in keys else None


AnyArm = Annotated[
    Annotated[Arm, Tag("Arm")] | Annotated[RunArm, Tag("RunArm")] | Annotated[ModelArm, Tag("ModelArm")],
    Discriminator(
        _arm_tag,
        custom_error_type="unknown_arm",
        custom_error_message="an arm is a name, `{run: SCENARIO@NUMBER}` or `{model: ROLE}`",
    ),
]


def arm_name(arm: Arm | RunArm | ModelArm) -> str:
    """What gates, stages and reports call it."""
    return arm if isinstance(arm, str) else arm.name


class Decoding(Frozen):
    temperature: float = Field(0.0, ge=0)
    """0 is greedy."""
    max_tokens: int = Field(64, ge=1)


class EvaluationSet(Frozen):
    metrics: tuple[AnyMetric, ...] = Field(min_length=1)
    """By name, or `{kind: ...}` with options. `stop_rate` and `answer_tokens` are measured of any prompts."""
    max_tokens: int | None = Field(None, ge=1)
    """Longest answer in this set; none: that of `evaluation.decoding`."""

    @model_validator(mode="after")
    def metrics_have_names_of_their_own(self) -> EvaluationSet:
        labels = [metric.label for metric in self.metrics]
        twice = [label for label in labels if labels.count(label) > 1]
        if twice:
            raise ValueError(f"two metrics are called {twice[0]!r}; give one a `name`")
        if sum(isinstance(metric, Consistency) for metric in self.metrics) > 1:
            raise ValueError("a set is asked in other words once: leave one `consistency` of it")
        return self


class TaskSet(EvaluationSet):
    task: Name
    """The test rows of this task."""
    learns_from: Name | None = None
    """The task whose training rows few-shot prompts show and rules learn from; none: `task`."""
    response_format: Literal["text", "json_schema"] = "text"
    """What answers can be at all; under `json_schema`, of every arm that is a model, only what matches the
    task's schema under `data.checks.answer_schema`."""


class SuiteSet(EvaluationSet):
    suite: SuiteName
    """A regression suite that ships."""


class SuiteItem(Frozen):
    q: str = Field(min_length=1)
    expected_contains: str | tuple[str, ...]
    """What the answer must contain; of several, any."""

    @field_validator("expected_contains")
    @classmethod
    def there_is_something_to_look_for(cls, given: str | tuple[str, ...]) -> str | tuple[str, ...]:
        texts = (given,) if isinstance(given, str) else given
        if not texts or not all(each.strip() for each in texts):
            raise ValueError("an empty text is in every answer: say what it must contain")
        return given


class InlineSet(EvaluationSet):
    items: tuple[SuiteItem, ...] = Field(min_length=1)
    """A regression suite of one's own."""

    @field_validator("items")
    @classmethod
    def each_is_asked_once(cls, items: tuple[SuiteItem, ...]) -> tuple[SuiteItem, ...]:
        asked = [item.q for item in items]
        if twice := next((q for q in asked if asked.count(q) > 1), None):
            raise ValueError(f"{twice!r} is asked twice, and would count as two pieces of evidence: keep one")
        return items


class FileSet(EvaluationSet):
    file: str = Field(min_length=1)
    """A regression suite of one's own, of rows such as `{q, expected_contains}`, or such as many of lm-eval's
    tasks have, `{question, answer}` and `{question, choices, answer}`: a path or a URL, as of a source."""


AskedSet = SuiteSet | InlineSet | FileSet
"""Those that watch what a model should still be able to do, and learn from nothing."""


class TextsSet(EvaluationSet):
    texts: TextsName
    """Fixed texts, scored by the log-likelihood that the model gives them."""


def _set_tag(value: Any) -> str | None:
    """Which kind of set this is, by the one key that only it has."""
    keys = set(value) if isinstance(value, dict) else set(type(value).model_fields)
    for key, tag in (
        ("task", "TaskSet"),
        ("suite", "SuiteSet"),
        ("items", "InlineSet"),
        ("file", "FileSet"),
        ("texts", "TextsSet"),
    ):
        if key in keys:
            return tag
    return None


AnySet = Annotated[
    Annotated[TaskSet, Tag("TaskSet")]
    | Annotated[SuiteSet, Tag("SuiteSet")]
    | Annotated[InlineSet, Tag("InlineSet")]
    | Annotated[FileSet, Tag("FileSet")]
    | Annotated[TextsSet, Tag("TextsSet")],
    Discriminator(
        _set_tag,
        custom_error_type="unknown_set",
        custom_error_message="a set names its rows by one of `task`, `suite`, `items`, `file`, `texts`",
    ),
]


class Gate(Frozen):
    metric: str
    """`set.metric`, as declared under `evaluation.sets`, or a part of it: `set.metric.precision`.

    `set.metric.unscored` is the share of answers that it could not score; `set.stop_rate` and
    `set.answer_tokens` are there for every set of prompts.
    """
    arm: str = "tuned"
    """Whose metric is judged: an arm by its name, or by the run or the role that it names."""
    at_least: float | None = None
    """Lower bound on the metric; with `gain_over`, on the gain."""
    at_most: float | None = None
    """Upper bound on the metric; with `gain_over`, on the gain."""
    gain_over: str | None = None
    """Judge the arm minus this one; `best_baseline` is the best of few-shot, retrieval and non-learned
    rules: the highest, or under `at_most` the lowest."""
    max_drop: float | None = Field(None, ge=0)
    """The metric may fall below the base by less than this."""

    @property
    def opponent(self) -> str | None:
        """What the arm is held against; none: only the bound."""
        return "base" if self.max_drop is not None else self.gain_over

    @model_validator(mode="after")
    def states_exactly_one_bound(self) -> Gate:
        bounds = (self.at_least, self.at_most, self.max_drop)
        if sum(bound is not None for bound in bounds) != 1:
            raise ValueError("a gate states exactly one of `at_least`, `at_most` and `max_drop`")
        if self.gain_over is not None and self.max_drop is not None:
            raise ValueError("`gain_over` needs `at_least` or `at_most`, the gain that passes")
        if self.arm == self.opponent:
            raise ValueError(f"{self.arm} is held against itself; name another `arm`")
        return self


def unwanted(gates: Iterable[Gate]) -> frozenset[str]:
    """The metrics of which the tuned model should have little: gates bound them from above alone."""
    return frozenset(
        gate.metric
        for gate in gates
        if gate.arm == "tuned" and gate.at_most is not None and gate.gain_over is None
    )


class GatesFile(Frozen):
    """Gates without a spec, to judge what a run has measured."""

    gates: tuple[Gate, ...] = Field(min_length=1)


NumShots = Annotated[int, Field(ge=1, le=32)]


class FewShot(Frozen):
    k: NumShots
    """How many rows."""
    choose: Literal["seeded", "similar"] = "seeded"
    """`seeded` draws the same rows for all prompts of a task, which an engine with a prefix cache reads once;
    `similar` takes for each prompt the rows whose prompts are most like it, by the TF-IDF cosine of their
    words: often the better examples, and each prompt's have to be read."""


class Retrieval(Frozen):
    k: NumShots
    """How many rows: those whose prompts are nearest in meaning, by the cosine of sentence embeddings."""


def _spell_out(shots: Any) -> Any:
    return {"k": shots} if isinstance(shots, int) else shots


class Evaluation(Frozen):
    decoding: Decoding = Decoding()
    few_shot: Annotated[FewShot, BeforeValidator(_spell_out, json_schema_input_type=NumShots | FewShot)] = (
        FewShot(k=3)
    )
    """Training rows shown to the few_shot arm: how many, or `{k: ..., choose: ...}`."""
    retrieval: Annotated[
        Retrieval, BeforeValidator(_spell_out, json_schema_input_type=NumShots | Retrieval)
    ] = Retrieval(k=3)
    """Training rows found for each question of the retrieval arm: how many, or `{k: ...}`."""
    sets: Annotated[dict[Name, AnySet], null_removes(dict[Name, AnySet | None])] = Field(min_length=1)
    """By name; a profile leaves one out by null."""
    arms: tuple[AnyArm, ...] = ("base", "few_shot", "tuned")
    """What answers the same prompts: by name, or `{run: medical@3}`, or `{model: ROLE}`."""
    gates: tuple[Gate, ...] = Field(min_length=1)

    @property
    def arm_names(self) -> tuple[str, ...]:
        return tuple(map(arm_name, self.arms))

    @property
    def arm_roles(self) -> tuple[str, ...]:
        """The supporting models that answer beside the arms of this spec's own model."""
        return tuple(arm.model for arm in self.arms if isinstance(arm, ModelArm))

    @property
    def roles(self) -> tuple[str, ...]:
        """The supporting models that judge answers."""
        metrics = [metric for each in self.sets.values() for metric in each.metrics]
        return tuple(dict.fromkeys(metric.judge for metric in metrics if isinstance(metric, Judged)))

    @model_validator(mode="after")
    def arms_hold_what_gates_compare(self) -> Evaluation:
        missing = {"base", "tuned"} - set(self.arm_names)
        if missing:
            raise ValueError(f"arms must hold base and tuned; missing: {', '.join(sorted(missing))}")
        if len(set(self.arm_names)) != len(self.arms):
            raise ValueError(f"an arm is listed twice: {', '.join(self.arm_names)}")
        if taken := NO_ARMS & set(self.arm_names):
            raise ValueError(f"an arm cannot be called {', '.join(sorted(taken))}; name the role otherwise")
        return self
