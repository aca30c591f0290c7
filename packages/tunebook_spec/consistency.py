"""What no single field of a spec can see: names that must meet across it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from tunebook_spec.base_model import BaseModelReference, is_same_model
from tunebook_spec.data import DatasetSource, RowsSource
from tunebook_spec.evaluation import PROMPTED, EvaluationSet, Gate, ModelArm, TaskSet, TextsSet
from tunebook_spec.method import DpoObjective, HostedMethod
from tunebook_spec.metrics import ALWAYS, AnyMetric, Consistency, JsonSchema, Judged, Pairwise
from tunebook_spec.spec import Spec

Path_ = tuple[str | int, ...]
"""Keys and indices from the root of a spec."""


def inconsistencies(spec: Spec) -> Iterator[tuple[Path_, str]]:
    """What no single field can see: names that must meet across the spec."""
    sets, tasks = spec.evaluation.sets, {source.task for source in spec.data.sources}
    for name, each in sets.items():
        if isinstance(each, TaskSet) and each.task not in tasks:
            known = ", ".join(sorted(tasks))
            yield (
                ("evaluation", "sets", name, "task"),
                f"no source has task {each.task!r}; sources have: {known}",
            )
        if isinstance(each, TaskSet):
            for key, untaught in _untaught(each, spec):
                yield ("evaluation", "sets", name, key), untaught
        for index, metric in enumerate(each.metrics):
            if (message := _misfit(each, metric, spec)) is not None:
                yield ("evaluation", "sets", name, "metrics", index), message
            if isinstance(metric, Judged) and (message := _misjudges(metric, spec)) is not None:
                yield ("evaluation", "sets", name, "metrics", index, "judge"), message
    for index, source in enumerate(spec.data.sources):
        columns = source.columns if isinstance(source, RowsSource) else None
        if columns and columns.assistant is None and spec.data.distill is None:
            message = "is required, since no `data.distill` has a teacher answer the rows"
            yield ("data", "sources", index, "columns", "assistant"), message
    if isinstance(spec.method.objective, DpoObjective):
        yield from _beside_preferences(spec)
    if isinstance(spec.method, HostedMethod):
        yield from _at_no_provider(spec)
    augment, distill, quality = spec.data.augment, spec.data.distill, spec.data.quality
    for at, role in (
        (("augment", "teacher"), augment and augment.teacher),
        (("distill", "teacher"), distill and distill.teacher),
        (("distill", "choose", "judge"), distill and distill.choose and distill.choose.judge),
        (("quality", "judge"), quality and quality.judge),
    ):
        if role and role not in spec.models:
            yield ("data", *at), _no_role(role, spec)
    if distill and distill.choose and not distill.choose.may_judge_itself:
        judge, teacher = (spec.models.get(role) for role in (distill.choose.judge, distill.teacher))
        if judge and teacher and is_same_model(judge, teacher):
            message = (
                f"{distill.choose.judge!r} is the teacher's own model, which tends to like what it wrote"
            )
            way_out = "name another model, or set `may_judge_itself: true`"
            yield ("data", "distill", "choose", "judge"), f"{message}: {way_out}"
    for index, arm in enumerate(spec.evaluation.arms):
        if isinstance(arm, ModelArm) and arm.model not in spec.models:
            yield ("evaluation", "arms", index, "model"), _no_role(arm.model, spec)
    for place, message in gate_problems(spec.evaluation.gates, _scored(spec)):
        yield ("evaluation", *place), message


def _beside_preferences(spec: Spec) -> Iterator[tuple[Path_, str]]:
    """What of the data cannot be learnt where preferences are."""
    way_out = "leave it out, or method.objective dpo"
    for index, source in enumerate(spec.data.sources):
        at: Path_ = ("data", "sources", index)
        wants = "dpo learns from rows of `format: preference` alone, in which each answer has a worse one"
        if isinstance(source, DatasetSource):
            yield (*at, "name"), f"{source.name!r} has single answers, and {wants}: {way_out}"
        elif source.columns is not None:
            yield (*at, "columns"), f"{wants}: {way_out}"
        elif source.format not in (None, "preference"):
            yield (*at, "format"), f"{wants}: {way_out}"
    for name in ("replay", "augment", "distill"):
        if getattr(spec.data, name) is not None:
            yield ("data", name), f"makes rows of one answer, and dpo learns from pairs: {way_out}"


def _at_no_provider(spec: Spec) -> Iterator[tuple[Path_, str]]:
    """What only a model whose weights are here can be asked for."""
    if spec.base_model.chat_template_kwargs:
        message = "a provider renders chats by its own template, which takes no arguments: leave it out"
        yield ("base_model", "chat_template_kwargs"), message
    if spec.data.replay and spec.data.replay.share:
        message = "rehearses answers of `base_model`, which is not what a provider tunes: set `replay: null`"
        yield ("data", "replay"), message
    if spec.data.loss_outliers is not None:
        message = "ranks by the loss of `base_model`, which is not what a provider tunes: leave it out"
        yield ("data", "loss_outliers"), message
    for name, each in spec.evaluation.sets.items():
        if isinstance(each, TextsSet):
            message = "an endpoint tells no likelihood of given texts: leave this set out (a profile sets it"
            yield ("evaluation", "sets", name), f"{message} to null), or train here"


def _scored(spec: Spec) -> dict[str, tuple[str, ...]]:
    """By metric, the arms that a gate on it can name: few-shot, retrieval and rules answer tasks alone."""
    arms, by_roles = spec.evaluation.arm_names, spec.evaluation.arm_roles
    scored: dict[str, tuple[str, ...]] = {}
    for name, each in spec.evaluation.sets.items():
        models = arms if isinstance(each, TaskSet) else tuple(arm for arm in arms if arm not in PROMPTED)
        if isinstance(each, TextsSet):
            models = tuple(arm for arm in models if arm not in by_roles)
        everyone = (*models, "best_baseline") if isinstance(each, TaskSet) else models
        for metric in each.metrics:
            unscored = () if isinstance(metric, Consistency) else ("unscored",)
            parts = [metric.label, *(f"{metric.label}.{part}" for part in (*metric.parts, *unscored))]
            measured: tuple[str, ...] = everyone
            if isinstance(metric, Judged):  # rules are not judged; what is compared is the tuned model
                measured = ("tuned",) if isinstance(metric, Pairwise) else models
                measured += ("best_baseline",) if set(PROMPTED) & set(measured) else ()
            scored |= {f"{name}.{part}": measured for part in parts}
        if not isinstance(each, TextsSet):
            scored |= {f"{name}.{metric}": models for metric in ALWAYS}
    return scored


def gate_problems(
    gates: Sequence[Gate], scored: Mapping[str, Collection[str]]
) -> Iterator[tuple[Path_, str]]:
    for index, gate in enumerate(gates):
        if gate.metric not in scored:
            message = f"no set declares {gate.metric!r}; declared: {', '.join(sorted(scored))}"
            yield ("gates", index, "metric"), message
            continue
        named = (("arm", gate.arm), ("max_drop" if gate.gain_over is None else "gain_over", gate.opponent))
        for key, arm in named:
            if arm is not None and arm not in scored[gate.metric]:
                known = ", ".join(scored[gate.metric])
                yield ("gates", index, key), f"{arm} has no {gate.metric}; it is there for: {known}"


def _no_role(name: str, spec: Spec) -> str:
    known = ", ".join(sorted(spec.models)) or "none"
    return f"no model {name!r} under `models`; there are: {known}"


def _untaught(each: TaskSet, spec: Spec) -> Iterator[tuple[str, str]]:
    """What a set names of other parts of the spec and is not there."""
    key = "task" if each.learns_from is None else "learns_from"
    task = each.learns_from or each.task
    sources = [source for source in spec.data.sources if source.task == task]
    if not sources and each.learns_from is not None:
        known = ", ".join(sorted({source.task for source in spec.data.sources}))
        yield key, f"no source has task {task!r}; sources have: {known}"
    if sources and all(source.split.test == 1 for source in sources):
        message = (
            f"nothing is learnt of {task!r}, whose split.test is 1: few-shot prompts and rules have no rows"
        )
        yield key, f"{message}; name another task under `learns_from`"
    if each.response_format == "json_schema" and each.task not in spec.data.checks.answer_schema:
        yield "response_format", f"needs a schema for {each.task!r} under `data.checks.answer_schema`"


def _misfit(each: EvaluationSet, metric: AnyMetric, spec: Spec) -> str | None:
    """Why a metric cannot score a set."""
    kind = metric.kind
    if isinstance(each, TextsSet) != (kind == "log_likelihood"):
        texts = "fixed texts are scored by log_likelihood alone"
        return f"{kind!r} cannot score this kind of set; {texts}, and nothing else is"
    if not isinstance(each, TaskSet) and kind in ("line_match", "json_fields"):
        return f"{kind!r} cannot score this kind of set: it needs the reference answers of a task"
    if isinstance(metric, Pairwise) and metric.against in PROMPTED:
        if not isinstance(each, TaskSet) or metric.against not in spec.evaluation.arm_names:
            return f"{metric.against} does not answer this set; compare `against: base`"
    if isinstance(metric, JsonSchema) and metric.answer_schema is None:
        schemas = spec.data.checks.answer_schema
        if not isinstance(each, TaskSet) or each.task not in schemas:
            return "needs `answer_schema`, or one for the set's task under `data.checks.answer_schema`"
    return None


def _misjudges(metric: Judged, spec: Spec) -> str | None:
    """Why a model cannot be the judge."""
    model = spec.models.get(metric.judge)
    if model is None:
        return _no_role(metric.judge, spec)
    if metric.repeats > 1 and isinstance(model, BaseModelReference):
        return f"{metric.judge!r} runs on this machine: its probabilities are read, and repeats are the same"
    if spec.is_tuned_or_base(model) and not metric.may_judge_itself:
        itself = f"{metric.judge!r} is the model that is tuned, which tends to like its own answers"
        return f"{itself}: name another model, or set `may_judge_itself: true`"
    answering = [spec.models[role] for role in spec.evaluation.arm_roles if role in spec.models]
    if any(is_same_model(model, each) for each in answering) and not metric.may_judge_itself:
        itself = f"{metric.judge!r} answers as an arm, and tends to like its own answers"
        return f"{itself}: name another model, or set `may_judge_itself: true`"
    return None
