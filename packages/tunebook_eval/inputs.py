"""The part of a spec that each stage of this package reads; a stage is handed this and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from tunebook_spec import Spec
from tunebook_spec.base_model import AnySupportingModel, EndpointModel, HostedModel
from tunebook_spec.evaluation import (
    PROMPTED,
    AnySet,
    Arm,
    FewShot,
    FileSet,
    Gate,
    InlineSet,
    ModelArm,
    Retrieval,
    RunArm,
    SuiteItem,
    SuiteName,
    SuiteSet,
    TaskSet,
    TextsName,
    TextsSet,
    arm_name,
)
from tunebook_spec.fields import Frozen
from tunebook_spec.method import HostedMethod
from tunebook_spec.metrics import AnyMetric, CodeRuff, Consistency, JsonSchema, Judge, Judged, Pairwise

AnswerArm = Arm | RunArm | ModelArm | Literal["baselines"]
"""`baselines` answers by rules, without a model."""


class Rewordings(Frozen):
    """What consistency asks again."""

    rows: int
    frames: tuple[str, ...]


class PromptSet(Frozen):
    """Where the prompts of a set come from; exactly one of the first five is given."""

    task: str | None = None
    suite: SuiteName | None = None
    items: tuple[SuiteItem, ...] | None = None
    file: str | None = None
    texts: TextsName | None = None
    learns_from: str | None = None
    """The task whose training rows are shown; none: `task`."""
    json_schema: dict[str, Any] | None = None
    """What an answer must match as it is made; none: it is free."""
    max_tokens: int
    """Longest answer; of no meaning for texts."""
    ruff: str | None = None
    """What `code_ruff` finds fault by, for the rules that mend code; models do not see it."""
    rewordings: Rewordings | None = None
    """None: each question is asked once, as it always is of rules."""

    @classmethod
    def of(
        cls, each: AnySet, default_max_tokens: int, answer_schema: Mapping[str, dict[str, Any]]
    ) -> PromptSet:
        """The set without its metrics, so that none but one that asks again makes a model answer anew."""
        max_tokens = each.max_tokens or default_max_tokens
        rewordings = next((_rewordings(one) for one in each.metrics if isinstance(one, Consistency)), None)
        match each:
            case TaskSet():
                schema = answer_schema[each.task] if each.response_format == "json_schema" else None
                return cls(
                    task=each.task,
                    learns_from=each.learns_from,
                    json_schema=schema,
                    max_tokens=max_tokens,
                    ruff=next((one.config for one in each.metrics if isinstance(one, CodeRuff)), None),
                    rewordings=rewordings,
                )
            case SuiteSet():
                return cls(suite=each.suite, max_tokens=max_tokens, rewordings=rewordings)
            case InlineSet():
                return cls(items=each.items, max_tokens=max_tokens, rewordings=rewordings)
            case FileSet():
                return cls(file=each.file, max_tokens=max_tokens, rewordings=rewordings)
        return cls(texts=each.texts, max_tokens=max_tokens)

    def as_read_by(self, arm: AnswerArm) -> PromptSet:
        """Without what this arm does not read.

        Rules are held to no schema and asked once, and an arm that is shown no rows learns from no task.
        """
        if arm == "baselines":
            return self.model_copy(update={"json_schema": None, "rewordings": None})
        unread = {"ruff": None} if arm in PROMPTED else {"ruff": None, "learns_from": None}
        return self.model_copy(update=unread)


def _rewordings(metric: Consistency) -> Rewordings:
    return Rewordings(rows=metric.rows, frames=metric.frames)


class AnswerInputs(Frozen):
    """What one arm reads."""

    arm: str
    """Its name."""
    sets: dict[str, PromptSet]
    temperature: float | None
    """None for rules, which do not sample."""
    seed: int | None
    """None where nothing is drawn: greedy decoding without few-shot rows, or with similar ones."""
    few_shot: FewShot | None
    """Rows to show; none in every arm but few_shot."""
    retrieval: Retrieval | None
    """Rows to find and show; none in every arm but retrieval."""
    chat_template_kwargs: dict[str, str | bool]
    model: AnySupportingModel | HostedModel | None = None
    """What answers in the place of a model of this spec's that runs here."""
    personal_data: Literal["allow", "flag", "mask", "drop"] | None = None
    """As `data.checks` has it, for such a model: whether rows with such data may leave this machine."""

    @classmethod
    def of(
        cls,
        spec: Spec,
        arm: AnswerArm,
        *,
        served: EndpointModel | None = None,
        chat_template_kwargs: Mapping[str, str | bool] | None = None,
    ) -> AnswerInputs:
        """What an arm reads of a spec.

        Args:
            spec: the spec.
            arm: the arm.
            served: answers in the place of the arm's own model.
            chat_template_kwargs: of an earlier run's model; None: the arm's model is this spec's.
        """
        evaluation = spec.evaluation
        other = served or _elsewhere(spec, arm)
        only_tasks = arm in (*PROMPTED, "baselines")
        sets = {
            name: PromptSet.of(
                each, evaluation.decoding.max_tokens, spec.data.checks.answer_schema
            ).as_read_by(arm)
            for name, each in evaluation.sets.items()
            if isinstance(each, TaskSet) or not (only_tasks or (other and isinstance(each, TextsSet)))
        }
        rules = arm == "baselines"
        if chat_template_kwargs is None:
            chat_template_kwargs = {} if rules or other else spec.base_model.chat_template_kwargs
        few_shot = evaluation.few_shot if arm == "few_shot" else None
        draws_shots = few_shot is not None and few_shot.choose == "seeded"
        draws = draws_shots or (not rules and evaluation.decoding.temperature > 0)
        return cls(
            arm=arm_name(arm) if arm != "baselines" else arm,
            sets=sets,
            temperature=None if rules else evaluation.decoding.temperature,
            seed=spec.seed if draws else None,
            few_shot=few_shot,
            retrieval=evaluation.retrieval if arm == "retrieval" else None,
            chat_template_kwargs=dict(chat_template_kwargs),
            model=other,
            personal_data=spec.data.checks.personal_data if other else None,
        )


def _elsewhere(spec: Spec, arm: AnswerArm) -> AnySupportingModel | HostedModel | None:
    """What answers for an arm and is no model of this spec's own that runs here."""
    if isinstance(arm, ModelArm):
        return spec.models[arm.model]
    if isinstance(spec.method, HostedMethod) and isinstance(arm, str) and arm != "baselines":
        return HostedModel(kind="hosted", model=spec.method.model)
    return None


class JudgeInputs(Frozen):
    """What one judge reads."""

    role: str
    model: AnySupportingModel
    sets: dict[str, PromptSet]
    """Those that it judges."""
    metrics: dict[str, tuple[Judge | Pairwise, ...]]
    """Its own, by set, whatever their calibration is held to."""
    personal_data: Literal["allow", "flag", "mask", "drop"]
    """As `data.checks` has it: whether rows with such data may leave this machine."""
    is_tuned_or_base: bool
    """It judges itself."""
    is_teacher: bool
    """It wrote rows that the tuned model has learnt."""

    @property
    def golden(self) -> tuple[str, ...]:
        """The golden sets that it is calibrated by."""
        named = [each.golden for of_set in self.metrics.values() for each in of_set if each.golden]
        return tuple(sorted(set(named)))

    @classmethod
    def of(cls, spec: Spec, role: str) -> JudgeInputs:
        evaluation, model = spec.evaluation, spec.models[role]
        metrics = {
            name: of_set
            for name, each in evaluation.sets.items()
            if (
                of_set := tuple(
                    one.measured
                    for one in each.metrics
                    if isinstance(one, Judge | Pairwise) and one.judge == role
                )
            )
        }
        sets = {
            name: PromptSet.of(
                evaluation.sets[name], evaluation.decoding.max_tokens, spec.data.checks.answer_schema
            )
            for name in metrics
        }
        teachers = [each.teacher for each in (spec.data.augment, spec.data.distill) if each]
        return cls(
            role=role,
            model=model,
            sets=sets,
            metrics=metrics,
            personal_data=spec.data.checks.personal_data,
            is_tuned_or_base=spec.is_tuned_or_base(model),
            is_teacher=any(spec.models[teacher] == model for teacher in teachers),
        )


def _measured(metric: AnyMetric) -> AnyMetric:
    """The metric without what only decides what it is worth."""
    return metric.measured if isinstance(metric, Judge | Pairwise) else metric


class EvaluateInputs(Frozen):
    metrics: dict[str, tuple[AnyMetric, ...]]
    """By set."""

    @classmethod
    def of(cls, spec: Spec) -> EvaluateInputs:
        sets = spec.evaluation.sets
        return cls(
            metrics={
                name: tuple(_whole(each, one, spec) for one in each.metrics) for name, each in sets.items()
            }
        )


def _whole(each: AnySet, metric: AnyMetric, spec: Spec) -> AnyMetric:
    """The metric with what it takes from elsewhere in the spec, and without what only `decide` reads."""
    if isinstance(metric, JsonSchema) and metric.answer_schema is None and isinstance(each, TaskSet):
        return metric.model_copy(update={"answer_schema": spec.data.checks.answer_schema[each.task]})
    return _measured(metric)


class DecideInputs(Frozen):
    name: str
    problem: str
    gates: tuple[Gate, ...]
    bounds: dict[str, dict[str, float]]
    """What each judge's calibration is held to, by `set.metric` and field."""

    @classmethod
    def of(cls, spec: Spec) -> DecideInputs:
        return cls(
            name=spec.name,
            problem=spec.problem,
            gates=spec.evaluation.gates,
            bounds={
                f"{name}.{metric.label}": metric.bounds
                for name, each in spec.evaluation.sets.items()
                for metric in each.metrics
                if isinstance(metric, Judged)
            },
        )
