"""The part of a spec that each stage of this package reads; a stage is handed this and nothing else."""

from __future__ import annotations

from typing import Literal

from tunebook_spec import Spec
from tunebook_spec.metrics import AnyMetric, JsonSchema
from tunebook_spec.models import (
    AnySet,
    Arm,
    Frozen,
    Gate,
    InlineSet,
    SuiteItem,
    SuiteName,
    SuiteSet,
    TaskSet,
    TextsName,
)

AnswerArm = Arm | Literal["baselines"]
"""`baselines` answers by rules, without a model."""


class PromptSet(Frozen):
    """Where the prompts of a set come from; exactly one of the four is given."""

    task: str | None = None
    suite: SuiteName | None = None
    items: tuple[SuiteItem, ...] | None = None
    texts: TextsName | None = None
    max_tokens: int
    """Longest answer; of no meaning for texts."""

    @classmethod
    def of(cls, each: AnySet, default_max_tokens: int) -> PromptSet:
        """The set without its metrics, so that another metric asks no model again."""
        max_tokens = each.max_tokens or default_max_tokens
        match each:
            case TaskSet():
                return cls(task=each.task, max_tokens=max_tokens)
            case SuiteSet():
                return cls(suite=each.suite, max_tokens=max_tokens)
            case InlineSet():
                return cls(items=each.items, max_tokens=max_tokens)
        return cls(texts=each.texts, max_tokens=max_tokens)


class AnswerInputs(Frozen):
    """What one arm reads."""

    arm: AnswerArm
    sets: dict[str, PromptSet]
    temperature: float | None
    """None for rules, which do not sample."""
    seed: int | None
    """None where nothing is drawn: greedy decoding without few-shot rows."""
    few_shot: int | None
    """Rows to show; none in every arm but few_shot."""
    chat_template_kwargs: dict[str, str | bool]

    @classmethod
    def of(cls, spec: Spec, arm: AnswerArm) -> AnswerInputs:
        evaluation = spec.evaluation
        only_tasks = arm in ("few_shot", "baselines")
        sets = {
            name: PromptSet.of(each, evaluation.decoding.max_tokens)
            for name, each in evaluation.sets.items()
            if isinstance(each, TaskSet) or not only_tasks
        }
        rules = arm == "baselines"
        draws = arm == "few_shot" or (not rules and evaluation.decoding.temperature > 0)
        return cls(
            arm=arm,
            sets=sets,
            temperature=None if rules else evaluation.decoding.temperature,
            seed=spec.seed if draws else None,
            few_shot=evaluation.few_shot if arm == "few_shot" else None,
            chat_template_kwargs={} if rules else spec.base_model.chat_template_kwargs,
        )


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
    """The metric with what it takes from elsewhere in the spec."""
    if isinstance(metric, JsonSchema) and metric.answer_schema is None and isinstance(each, TaskSet):
        return metric.model_copy(update={"answer_schema": spec.data.checks.answer_schema[each.task]})
    return metric


class DecideInputs(Frozen):
    name: str
    problem: str
    gates: tuple[Gate, ...]

    @classmethod
    def of(cls, spec: Spec) -> DecideInputs:
        return cls(name=spec.name, problem=spec.problem, gates=spec.evaluation.gates)
