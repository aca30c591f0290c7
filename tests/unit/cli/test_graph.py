"""Every field of the spec moves exactly the stages that read it, and all that follow from them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import BaseModel

from tunebook_cli.graph import EarlierRun, generates, read_fields, stages
from tunebook_inference.served import Served
from tunebook_run.stages import Stage
from tunebook_spec import Spec, load
from tunebook_spec.method import AdapterMethod, TrainingMethod
from tunebook_spec.metrics import Judged
from tunebook_spec.needs import Needs

SPEC = """\
version: 1
name: tiny
base_model: {kind: folder, path: models/a}
data:
  sources:
    - {kind: dataset, name: medical_glossary, task: glossary, split: {group_by: context}}
    - {kind: file, path: rows.jsonl, task: chat}
    - {kind: file, path: more.jsonl, task: glossary}
    - {kind: hub, repo: a/b, path: a.jsonl, task: hub}
    - {kind: file, path: own.csv, task: own, columns: {system: Be kind., user: "{q}", assistant: "{a}"}}
  checks: {answer_schema: {chat: {type: object}}}
  replay: {share: 0.1}
  quality: {judge: told, criteria: Is it true?, at_least: 5}
  augment: {teacher: teacher}
  distill: {teacher: teacher, samples: 2, choose: {judge: told, criteria: Is it true?}}
models:
  teacher: {kind: endpoint, model: gpt-x}
  other: {kind: endpoint, model: gpt-x}
  told: {kind: scripted, script: [{pattern: a, answers: [b]}]}
  mild: {kind: scripted, path: mild.jsonl}
  judge: {kind: endpoint, model: judge-x}
  here: {kind: hub, repo: a/judge}
method: {kind: full}
evaluation:
  sets:
    chat: {task: chat, metrics: [exact_match]}
    glossary: {task: glossary, metrics: [line_match]}
    general: {suite: general, metrics: [contains]}
    own: {items: [{q: What is 2+2?, expected_contains: "4"}], metrics: [contains]}
    asked: {file: a.jsonl, metrics: [contains]}
    tone:
      task: own
      metrics:
        - {kind: judge, judge: judge, criteria: {kind: Is it kind?}, golden: golden.jsonl}
        - {kind: pairwise, judge: judge, criteria: {kind: Is it kind?}, golden: golden.jsonl}
    told: {task: own, metrics: [{kind: judge, judge: here, criteria: {truth: Is it true?}}]}
    texts: {texts: fixed_texts, metrics: [log_likelihood]}
  gates:
    - {metric: chat.exact_match, at_least: 0.5}
    - {metric: general.contains, max_drop: 0.05}
profiles:
  other:
    base_model: {kind: builtin, name: smollm2-135m-instruct}
  file:
    base_model: {kind: gguf, path: a.gguf}
  hub:
    base_model: {kind: hub, repo: a/b}
  lora:
    method: {kind: lora}
  qlora:
    method: {kind: qlora}
  dpo:
    data:
      sources:
        - {kind: file, path: rows.jsonl, task: chat}
        - {kind: file, path: more.jsonl, task: glossary}
        - {kind: file, path: own.jsonl, task: own}
      replay: null
      augment: null
      distill: null
    method: {kind: full, objective: {kind: dpo}}
  hosted:
    data: {replay: null}
    method: {kind: hosted, model: gpt-x}
    evaluation: {sets: {texts: null}}
  hosted_beside_ours:
    data: {replay: null}
    method: {kind: hosted, model: gpt-x}
    evaluation: {sets: {texts: null}, arms: [base, tuned, {run: a@1}]}
  similar:
    evaluation: {few_shot: {k: 3, choose: similar}}
  arms:
    evaluation: {arms: [base, tuned, {run: a@1}, {model: other}]}
  retrieval:
    evaluation: {arms: [base, few_shot, retrieval, tuned]}
"""


def metrics(of_chat: str) -> str:
    return f"evaluation.sets.chat.metrics=[{of_chat}]"


def rule(one: str) -> str:
    return metrics(f"exact_match, {{kind: rules, rules: [{one}]}}")


def judged(kind: str, **changed: str) -> str:
    """A change of the one metric that an endpoint judges by scores, or by comparing."""
    options = {"criteria": "{kind: Is it kind?}", "golden": "golden.jsonl", "judge": "judge", **changed}
    index = ("judge", "pairwise").index(kind)
    written = ", ".join(f"{name}: {value}" for name, value in options.items())
    return f"evaluation.sets.tone.metrics.{index}={{kind: {kind}, {written}}}"


ARMS = ("answer-base", "answer-few_shot", "answer-tuned")
TASKS = ("answer-baselines", *ARMS)
MODEL = ("replay", "prepare", "train", "merge", "answer-base", "answer-few_shot")
DATA = ("prepare",)
TRAIN = ("train",)
JUDGE = ("judge-judge", "evaluate")
ALL = ("replay", *DATA, *TRAIN, "merge", *TASKS, "evaluate", "decide")

MOVES: dict[str, tuple[str, tuple[str, ...]]] = {
    # Field: a change of it, and the stages that read it.
    "Spec.name": ("name=other", ("decide",)),
    "Spec.problem": ("problem=Another", ("decide",)),
    "Spec.seed": ("seed=1", ("prepare", "train", "answer-few_shot")),
    "FolderModel.kind": ("profile=other", MODEL),
    "FolderModel.path": ("base_model.path=models/b", MODEL),
    "FolderModel.chat_template_kwargs": ("base_model.chat_template_kwargs={a: b}", (*MODEL, "answer-tuned")),
    "BuiltinModel.kind": ("profile=other", MODEL),
    "BuiltinModel.name": ("profile=other", MODEL),
    "GgufModel.kind": ("profile=file", MODEL),
    "GgufModel.path": ("profile=file", MODEL),
    "HubModel.kind": ("profile=hub", MODEL),
    "HubModel.repo": ("profile=hub", MODEL),
    "HubModel.revision": ("base_model={kind: hub, repo: a/b, revision: c}", MODEL),
    "Data.system": ("data.system=Be brief.", DATA),
    "DatasetSource.kind": ("data.sources.0={kind: file, path: rows.jsonl, task: glossary}", DATA),
    "DatasetSource.name": ("data.sources.0={kind: file, path: rows.jsonl, task: glossary}", DATA),
    "FileSource.kind": ("data.sources.1={kind: dataset, name: medical_glossary, task: chat}", DATA),
    "FileSource.path": ("data.sources.1.path=others.jsonl", DATA),
    "FileSource.format": ("data.sources.1.format=alpaca", DATA),
    "FileSource.licence": ("data.sources.1.licence=CC0-1.0", DATA),
    "HubSource.kind": ("data.sources.3={kind: file, path: a.jsonl, task: hub}", DATA),
    "HubSource.repo": ("data.sources.3.repo=a/c", DATA),
    "HubSource.revision": ("data.sources.3.revision=v2", DATA),
    "HubSource.path": ("data.sources.3.path=b.jsonl", DATA),
    "Columns.system": ("data.sources.4.columns.system=Be brief.", DATA),
    "Columns.user": ("data.sources.4.columns.user='{p}'", DATA),
    "Columns.assistant": ("data.sources.4.columns.assistant='{r}'", DATA),
    "DatasetSource.task": ("data.sources.0={kind: dataset, name: medical_glossary, task: choice}", DATA),
    "DatasetSource.weight": ("data.sources.0.weight=2", DATA),
    "DatasetSource.max_train_rows": ("data.sources.0.max_train_rows=5", DATA),
    "DatasetSource.max_test_rows": ("data.sources.0.max_test_rows=5", DATA),
    "DatasetSource.num_rows": ("data.sources.0.num_rows=50", DATA),
    "DatasetSource.num_terms": ("data.sources.0.num_terms=50", DATA),
    "DatasetSource.ruff": ("data.sources.0.ruff='line-length = 79'", DATA),
    "Replay.max_prompts": ("data.replay.max_prompts=20", ("replay", "prepare")),
    "Split.group_by": ("data.sources.1.split.group_by=topic", DATA),
    "Split.across_tasks": ("data.sources.0.split.across_tasks=true", DATA),
    "Split.test": ("data.sources.1.split.test=0.3", DATA),
    "Split.validation": ("data.sources.1.split.validation=0.3", DATA),
    "Checks.min_response_chars": ("data.checks.min_response_chars=2", DATA),
    "Checks.max_response_chars": ("data.checks.max_response_chars=200", DATA),
    "Checks.max_tokens": ("data.checks.max_tokens=100", DATA),
    "Checks.on_too_long": ("data.checks.on_too_long=fail", DATA),
    "Data.max_reject_fraction": ("data.max_reject_fraction=0.5", DATA),
    "Checks.damaged_text": ("data.checks.damaged_text=allow", DATA),
    "Checks.refusals": ("data.checks.refusals=drop", DATA),
    "Checks.personal_data": ("data.checks.personal_data=mask", DATA),
    "Checks.answer_schema": ("data.checks.answer_schema={chat: {type: object}, own: {type: string}}", DATA),
    "Data.loss_outliers": ("data.loss_outliers=20", DATA),
    "Dedup.near": ("data.dedup={near: 0.7}", DATA),
    "Decontaminate.ngram_words": ("data.decontaminate.ngram_words=13", DATA),
    "Decontaminate.ngram_overlap": ("data.decontaminate.ngram_overlap=0.7", DATA),
    "Decontaminate.near": ("data.decontaminate.near=0.7", DATA),
    "Augment.teacher": ("data.augment.teacher=other", DATA),
    "Augment.variations": ("data.augment.variations=3", DATA),
    "Augment.rows": ("data.augment.rows=50", DATA),
    "Augment.temperature": ("data.augment.temperature=0.5", DATA),
    "Augment.max_tokens": ("data.augment.max_tokens=512", DATA),
    "Distill.teacher": ("data.distill.teacher=other", DATA),
    "Distill.samples": ("data.distill.samples=3", DATA),
    "Choice.judge": ("data.distill.choose.judge=mild", DATA),
    "Choice.criteria": ("data.distill.choose.criteria=Is it short?", DATA),
    "Choice.max_tokens": ("data.distill.choose.max_tokens=64", DATA),
    "Choice.may_judge_itself": ("data.distill.choose.may_judge_itself=true", DATA),
    "Quality.judge": ("data.quality.judge=mild", DATA),
    "Quality.criteria": ("data.quality.criteria=Is it short?", DATA),
    "Quality.max_tokens": ("data.quality.max_tokens=64", DATA),
    "Quality.at_least": ("data.quality.at_least=6", DATA),
    "Distill.teacher_system": ("data.distill.teacher_system=Think first.", DATA),
    "Distill.shots": ("data.distill.shots=2", DATA),
    "Distill.temperature": ("data.distill.temperature=0.5", DATA),
    "Distill.max_tokens": ("data.distill.max_tokens=512", DATA),
    "ScriptedModel.kind": ("models.teacher={kind: scripted, path: a.jsonl}", DATA),
    "ScriptedModel.path": ("models.told={kind: scripted, path: b.jsonl}", DATA),
    "ScriptedReply.pattern": ("models.told.script.0.pattern=c", DATA),
    "ScriptedReply.answers": ("models.told.script.0.answers=[c]", DATA),
    "EndpointModel.kind": ("models.teacher={kind: builtin, name: smollm2-135m-instruct}", DATA),
    "EndpointModel.model": ("models.teacher.model=gpt-y", DATA),
    "Replay.share": ("data.replay.share=0.2", DATA),
    "Replay.loss_weight": ("data.replay.loss_weight=4", DATA),
    "Replay.max_tokens": ("data.replay.max_tokens=48", ("replay", "prepare")),
    "FullMethod.kind": ("method={kind: lora}", TRAIN),
    "FullMethod.epochs": ("method.epochs=4", TRAIN),
    "FullMethod.learning_rate": ("method.learning_rate=1e-3", TRAIN),
    "FullMethod.tokens_per_step": ("method.tokens_per_step=2048", TRAIN),
    "FullMethod.rows_per_step": ("method.rows_per_step=4", TRAIN),
    "FullMethod.max_pack_tokens": ("method.max_pack_tokens=512", TRAIN),
    "FullMethod.lr_scheduler_type": ("method.lr_scheduler_type=linear", TRAIN),
    "EarlyStopping.eval_steps": ("method.early_stopping={eval_steps: 5}", TRAIN),
    "EarlyStopping.patience": ("method.early_stopping={patience: 5}", TRAIN),
    "EarlyStopping.threshold": ("method.early_stopping={threshold: 0.1}", TRAIN),
    "FullMethod.warmup_ratio": ("method.warmup_ratio=0.1", TRAIN),
    "FullMethod.weight_decay": ("method.weight_decay=0.1", TRAIN),
    "FullMethod.max_grad_norm": ("method.max_grad_norm=2.0", TRAIN),
    "FullMethod.optim": ("method.optim=adamw_8bit", TRAIN),
    "FullMethod.checkpoint_every_steps": ("method.checkpoint_every_steps=5", TRAIN),
    "FullMethod.parallel_strategy": ("method.parallel_strategy=fsdp", TRAIN),
    "DpoObjective.kind": ("method.objective={kind: sft}", ("prepare", *TRAIN)),
    "DpoObjective.beta": ("method.objective.beta=0.2", TRAIN),
    "LoraMethod.kind": ("method={kind: full}", TRAIN),
    "LoraMethod.learning_rate": ("method.learning_rate=1e-3", TRAIN),
    "LoraMethod.r": ("method.r=8", TRAIN),
    "LoraMethod.lora_alpha": ("method.lora_alpha=16", TRAIN),
    "LoraMethod.lora_dropout": ("method.lora_dropout=0.1", TRAIN),
    "LoraMethod.target_modules": ("method.target_modules=[q_proj]", TRAIN),
    "LoraMethod.modules_to_save": ("method.modules_to_save=[embed_tokens]", TRAIN),
    "LoraMethod.use_rslora": ("method.use_rslora=true", TRAIN),
    "LoraMethod.use_dora": ("method.use_dora=true", TRAIN),
    "QloraMethod.kind": ("method={kind: lora}", (*TRAIN, "merge")),
    "QloraMethod.learning_rate": ("method.learning_rate=1e-3", TRAIN),
    "QloraMethod.r": ("method.r=8", TRAIN),
    "QloraMethod.merge_into": ("method.merge_into=base", ("merge",)),
    "HostedMethod.kind": ("method={kind: full}", (*TRAIN, *ARMS)),
    "HostedMethod.model": ("method.model=gpt-y", (*TRAIN, *ARMS)),
    "HostedMethod.suffix": ("method.suffix=ours", TRAIN),
    "HostedHyperparameters.n_epochs": ("method.hyperparameters.n_epochs=2", TRAIN),
    "HostedHyperparameters.batch_size": ("method.hyperparameters.batch_size=8", TRAIN),
    "HostedHyperparameters.learning_rate_multiplier": (
        "method.hyperparameters.learning_rate_multiplier=0.5",
        TRAIN,
    ),
    "Decoding.temperature": ("evaluation.decoding.temperature=0.5", ARMS),
    "Decoding.max_tokens": ("evaluation.decoding.max_tokens=32", TASKS),
    "FewShot.k": ("evaluation.few_shot=5", ("answer-few_shot",)),
    "FewShot.choose": ("evaluation.few_shot={k: 3, choose: similar}", ("answer-few_shot",)),
    "Retrieval.k": ("evaluation.retrieval=5", ("answer-retrieval",)),
    "RunArm.run": ("evaluation.arms.2={run: a@2}", (*JUDGE, "judge-here")),
    "ModelArm.model": ("evaluation.arms.3={model: mild}", (*JUDGE, "judge-here")),
    "SimpleMetric.kind": (metrics("exact_match, line_match"), ("evaluate",)),
    "SimpleMetric.name": (metrics("exact_match, {kind: contains, name: holds}"), ("evaluate",)),
    "ExactMatch.normalise": (metrics("{kind: exact_match, normalise: false}"), ("evaluate",)),
    "TokenF1.references": (metrics("exact_match, {kind: token_f1, references: others}"), ("evaluate",)),
    "EmbeddingSimilarity.references": (
        metrics("exact_match, {kind: embedding_similarity, references: others}"),
        ("evaluate",),
    ),
    "ChoiceAccuracy.choices": (
        metrics("exact_match, {kind: choice_accuracy, choices: [a, b]}"),
        ("evaluate",),
    ),
    "RegexMatch.pattern": (metrics("exact_match, {kind: regex, pattern: a}"), ("evaluate",)),
    "Numeric.tolerance": (metrics("exact_match, {kind: numeric, tolerance: 1}"), ("evaluate",)),
    "Numeric.relative_tolerance": (
        metrics("exact_match, {kind: numeric, relative_tolerance: 1}"),
        ("evaluate",),
    ),
    "JsonSchema.answer_schema": (
        metrics("exact_match, {kind: json_schema, answer_schema: {}}"),
        ("evaluate",),
    ),
    "JsonFields.fields": (metrics("exact_match, {kind: json_fields, fields: [a]}"), ("evaluate",)),
    "CodeRuff.config": (
        metrics("exact_match, {kind: code_ruff, config: 'line-length = 79'}"),
        ("answer-baselines", "evaluate"),
    ),
    "CodeRuff.defines": (
        metrics("exact_match, {kind: code_ruff, config: '', defines: signature}"),
        ("answer-baselines", "evaluate"),
    ),
    "CodeDoctests.examples": (metrics("exact_match, {kind: code_doctests, examples: tests}"), ("evaluate",)),
    "CodeDoctests.timeout_s": (metrics("exact_match, {kind: code_doctests, timeout_s: 5}"), ("evaluate",)),
    "CodeDoctests.memory_mib": (metrics("exact_match, {kind: code_doctests, memory_mib: 64}"), ("evaluate",)),
    "Consistency.rows": (
        "evaluation.sets.glossary.metrics=[line_match, {kind: consistency, rows: 5}]",
        (*ARMS, "evaluate"),
    ),
    "Consistency.frames": (
        "evaluation.sets.glossary.metrics=[line_match, {kind: consistency, frames: ['Hi! {question}']}]",
        (*ARMS, "evaluate"),
    ),
    "TextRule.name": (rule("{name: short, max_words: 9}"), ("evaluate",)),
    "TextRule.pattern": (rule("{name: hello, pattern: Hi}"), ("evaluate",)),
    "TextRule.must": (rule("{name: hello, pattern: Hi, must: not_match}"), ("evaluate",)),
    "TextRule.min_words": (rule("{name: long, min_words: 9}"), ("evaluate",)),
    "TextRule.max_words": (rule("{name: short, max_words: 8}"), ("evaluate",)),
    "TextRule.min_reading_ease": (rule("{name: plain, min_reading_ease: 65}"), ("evaluate",)),
    "TextRule.holds": (rule("{name: fact, holds: facts}"), ("evaluate",)),
    "Judge.kind": (
        "evaluation.sets.tone.metrics.0={kind: pairwise, name: both, criteria: {kind: Is it kind?},"
        " golden: golden.jsonl, judge: judge}",
        JUDGE,
    ),
    "Judge.name": (judged("judge", name="warm"), JUDGE),
    "Judge.criteria": (judged("judge", criteria="{kind: Is it warm?}"), JUDGE),
    "Judge.golden": (judged("judge", golden="other.jsonl"), JUDGE),
    "Judge.temperature": (judged("judge", temperature="0.5"), JUDGE),
    "Judge.repeats": (judged("judge", temperature="0.5", repeats="3"), JUDGE),
    "Judge.max_tokens": (judged("judge", max_tokens="64"), JUDGE),
    "Judge.judge": (judged("judge", judge="other"), JUDGE),
    "Judge.may_judge_itself": (judged("judge", may_judge_itself="true"), JUDGE),
    "Judge.min_spearman": (judged("judge", min_spearman="0.7"), ("decide",)),
    "Judge.max_length_bias": (judged("judge", max_length_bias="0.2"), ("decide",)),
    "Pairwise.against": (judged("pairwise", against="few_shot"), JUDGE),
    "Pairwise.min_agreement": (judged("pairwise", min_agreement="0.8"), ("decide",)),
    "TaskSet.max_tokens": ("evaluation.sets.chat.max_tokens=8", TASKS),
    "TaskSet.learns_from": (
        "evaluation.sets.chat.learns_from=glossary",
        ("answer-baselines", "answer-few_shot"),
    ),
    "TaskSet.response_format": ("evaluation.sets.chat.response_format=json_schema", ARMS),
    "TaskSet.task": ("evaluation.sets.glossary.task=chat", TASKS),
    "FileSet.file": ("evaluation.sets.asked.file=b.jsonl", ("prepare", "answer-base", "answer-tuned")),
    "SuiteItem.q": ("evaluation.sets.own.items.0.q=Why?", ("prepare", "answer-base", "answer-tuned")),
    "SuiteItem.expected_contains": (
        "evaluation.sets.own.items.0.expected_contains='5'",
        ("answer-base", "answer-tuned"),
    ),
    "Gate.at_least": ("evaluation.gates.0.at_least=0.6", ("decide",)),
    "Gate.at_most": ("evaluation.gates.0={metric: chat.exact_match, at_most: 0.9}", ("decide",)),
    "Gate.arm": ("evaluation.gates.0.arm=base", ("decide",)),
    "Gate.metric": ("evaluation.gates.0.metric=own.contains", ("decide",)),
    "Gate.gain_over": ("evaluation.gates.0.gain_over=base", ("decide",)),
    "Gate.max_drop": ("evaluation.gates.1.max_drop=0.1", ("decide",)),
}

METRICS = ("ExactMatch", "ChoiceAccuracy", "RegexMatch", "Numeric", "JsonSchema", "JsonFields", "CodeRuff")
METRICS += ("CodeDoctests", "Rules", "Consistency", "TokenF1", "EmbeddingSimilarity")

# Which kind of object a field stands in is tested where the field is; these add nothing of their own.
SAME_AS = {
    "BuiltinModel.chat_template_kwargs": "FolderModel.chat_template_kwargs",
    "GgufModel.chat_template_kwargs": "FolderModel.chat_template_kwargs",
    "HubModel.chat_template_kwargs": "FolderModel.chat_template_kwargs",
    "FileSource.task": "DatasetSource.task",
    "HubSource.task": "DatasetSource.task",
    "HubSource.format": "FileSource.format",
    "HubSource.licence": "FileSource.licence",
    "HubSource.weight": "DatasetSource.weight",
    "HubSource.max_train_rows": "DatasetSource.max_train_rows",
    "HubSource.max_test_rows": "DatasetSource.max_test_rows",
    "FileSource.weight": "DatasetSource.weight",
    "FileSource.max_train_rows": "DatasetSource.max_train_rows",
    "FileSource.max_test_rows": "DatasetSource.max_test_rows",
    **{f"{kind}.kind": "SimpleMetric.kind" for kind in METRICS},
    **{f"{kind}.name": "SimpleMetric.name" for kind in METRICS},
    **{f"Pairwise.{name}": f"Judge.{name}" for name in set(Judged.model_fields) | {"kind"}},
    "SuiteSet.max_tokens": "TaskSet.max_tokens",
    "InlineSet.max_tokens": "TaskSet.max_tokens",
    "FileSet.max_tokens": "TaskSet.max_tokens",
    "TextsSet.max_tokens": "TaskSet.max_tokens",
    **{
        f"LoraMethod.{name}": f"FullMethod.{name}"
        for name in set(TrainingMethod.model_fields) - {"early_stopping", "objective"}
    },
    **{
        f"QloraMethod.{name}": f"LoraMethod.{name}"
        for name in set(AdapterMethod.model_fields) - {"early_stopping", "objective"}
    },
    "SftObjective.kind": "DpoObjective.kind",
}
FOR_ADVICE = {f"Needs.{name}" for name in Needs.model_fields}
"""What only `tunebook advise` reads; tests/unit/plan changes each."""
ONE_VALUE = {"Spec.version", "SuiteSet.suite", "TextsSet.texts"}
UNDER = {"LoraMethod": "lora", "QloraMethod": "qlora", "DpoObjective": "dpo"}
UNDER |= {"HostedMethod": "hosted", "HostedHyperparameters": "hosted"}
UNDER |= {"Retrieval": "retrieval", "RunArm": "arms", "ModelArm": "arms"}
"""Profiles in which a model stands; the others stand in the spec without one."""


def leaves(model: type[BaseModel]) -> Iterator[str]:
    """Every field, as Model.field, that holds a value and not another model."""
    for name, field in model.model_fields.items():
        nested = list(models(field.annotation))
        for each in nested:
            yield from leaves(each)
        if not nested:
            yield f"{model.__name__}.{name}"


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from models(argument)


OWN_ARGUMENTS = {"date_string": "26 Jul 2024"}


def plan(
    folder: Path,
    change: str,
    profile: str | None = None,
    price_per_hour: float | None = None,
    served: Served | None = None,
    provider: str | None = None,
) -> dict[str, Stage]:
    path = folder / "tiny.yaml"
    path.write_text(SPEC)
    if change.startswith("profile="):
        loaded = load(path, profile=change.removeprefix("profile="))
    else:
        loaded = load(path, profile=profile, overrides=[change] if change else [])
    spec = loaded.spec
    # Content stands for the files that a path or a name leads to.
    reference = spec.base_model.model_dump_json(exclude={"chat_template_kwargs"})
    sources = {
        str(s): s.model_dump_json(include={"kind", "path", "name", "repo", "revision"})
        for s in spec.data.sources
    }
    sources["suites"] = "what ships"
    supporting = {role: model.model_dump_json() for role, model in spec.models.items()}
    digest = hashlib.sha256(reference.encode()).hexdigest()
    golden = {name: f"what {name} holds" for name in ("golden.jsonl", "other.jsonl")}
    return stages(
        spec,
        base_model=digest,
        sources=sources,
        supporting=supporting,
        golden=golden,
        runs={name: EarlierRun("key", f"what {name} made", OWN_ARGUMENTS) for name in ("a@1", "a@2")},
        served=served,
        provider=provider,
        price_per_hour=price_per_hour,
    )


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stage]:
    """The stages of the unchanged spec."""
    return plan(tmp_path_factory.mktemp("unchanged"), "")


def test_the_table_covers_every_field_of_the_spec() -> None:
    assert set(leaves(Spec)) == (set(MOVES) | set(SAME_AS) | ONE_VALUE | FOR_ADVICE)


@pytest.mark.parametrize("field", MOVES)
def test_a_field_moves_the_stages_that_read_it_and_those_after_them(
    tmp_path: Path, before: dict[str, Stage], field: str
) -> None:
    change, readers = MOVES[field]
    profile = UNDER.get(field.partition(".")[0])
    before = plan(tmp_path, "", profile) if profile else before
    after = plan(tmp_path, change, profile)
    expected = set(readers)
    for name, stage in before.items():
        if expected & set(stage.parents):
            expected.add(name)
    moved = {name for name in before if name in after and before[name].digest != after[name].digest}
    assert moved == expected
    assert moved


def test_what_only_advice_reads_moves_no_stage(tmp_path: Path, before: dict[str, Stage]) -> None:
    after = plan(tmp_path, "needs={teach: [terms], facts_change: daily, private_data: true}")
    assert {name: stage.digest for name, stage in after.items()} == {n: s.digest for n, s in before.items()}


@pytest.mark.parametrize(("profile", "moves"), [(None, True), ("similar", False)], ids=["seeded", "similar"])
def test_the_seed_draws_few_shot_rows_and_no_similar_ones(
    tmp_path: Path, profile: str | None, moves: bool
) -> None:
    before, after = (plan(tmp_path, change, profile)["answer-few_shot"] for change in ("", "seed=1"))
    assert (before.inputs["fields"] != after.inputs["fields"]) == moves


def test_other_models_answer_before_training_and_read_only_what_they_are(tmp_path: Path) -> None:
    before = plan(tmp_path, "", "arms")
    names = list(before)
    assert names.index("answer-a@1") < names.index("answer-other") < names.index("train")
    assert before["answer-a@1"].inputs["contents"] == {"run": "what a@1 made"}
    after = plan(tmp_path, "models.other.model=gpt-y", "arms")
    moved = {name for name in before if before[name].digest != after[name].digest}
    assert {each for each in moved if each.startswith("answer-")} == {"answer-other"}
    base, other = (cast(Any, before[f"answer-{arm}"].inputs["fields"]) for arm in ("base", "other"))
    assert set(base["sets"]) - set(other["sets"]) == {"texts"}


@pytest.mark.parametrize("profile", ["arms", "hosted_beside_ours"])
def test_an_earlier_run_answers_as_it_was_trained_and_by_our_engine(tmp_path: Path, profile: str) -> None:
    earlier = plan(tmp_path, "", profile, provider="gpt-x at a")["answer-a@1"]
    assert cast(Any, earlier.inputs["fields"])["chat_template_kwargs"] == OWN_ARGUMENTS
    assert "vllm" in cast(Any, earlier.inputs["libraries"])
    assert generates(earlier)


@pytest.mark.parametrize("profile", [None, "qlora", "dpo", "hosted", "arms", "retrieval"])
def test_what_a_stage_reads_can_be_read_again_as_it_is(tmp_path: Path, profile: str | None) -> None:
    for name, stage in plan(tmp_path, "", profile, provider="gpt-x at a").items():
        fields = cast(Any, stage.inputs["fields"])
        assert read_fields(name, fields) == fields, name
        assert read_fields(name, {**fields, "unheard_of": 1}) is None


SERVED = Served(base_url="http://localhost:8000/v1", model="tiny@3", who="tiny@3 at localhost:8000/v1")


def test_a_served_model_answers_as_the_tuned_one_and_nothing_is_trained(
    tmp_path: Path, before: dict[str, Stage]
) -> None:
    after = plan(tmp_path, "", served=SERVED)
    assert set(before) - set(after) == {"train", "merge"}
    moved = {name for name in after if before[name].digest != after[name].digest}
    assert moved == {"answer-tuned", "judge-judge", "judge-here", "evaluate", "decide"}
    assert after["answer-tuned"].inputs["contents"] == {"model:tuned": SERVED.who}
    told = [str(after["answer-tuned"].inputs["fields"]), str(before["answer-tuned"].inputs["fields"])]
    assert ["fixed_texts" in each for each in told] == [False, True], "no endpoint is asked for them"
    elsewhere = SERVED.model_copy(update={"base_url": "http://other/v1", "concurrency": 3})
    assert plan(tmp_path, "", served=elsewhere) == after, "the way to it is a fact of the machine"
    another = plan(tmp_path, "", served=SERVED.model_copy(update={"who": "tiny@3 at other"}))
    assert another["answer-tuned"].digest != after["answer-tuned"].digest


def test_a_provider_trains_and_answers_and_nothing_is_merged_or_run_here(tmp_path: Path) -> None:
    before, after = (plan(tmp_path, "", "hosted", provider=host) for host in ("gpt-x at a", "gpt-x at b"))
    assert {"replay", "merge"}.isdisjoint(before)
    assert before["answer-tuned"].parents == ("prepare", "train")
    assert not any(generates(stage) for stage in before.values())
    moved = {name for name in before if before[name].digest != after[name].digest}
    assert {"train", "answer-base", "answer-few_shot", "answer-tuned"} <= moved
    assert {"prepare", "answer-baselines"}.isdisjoint(moved)


def test_the_price_of_the_machine_moves_only_what_tells_money(
    tmp_path: Path, before: dict[str, Stage]
) -> None:
    after = plan(tmp_path, "", price_per_hour=1.5)
    assert {name for name in before if before[name].digest != after[name].digest} == {"decide"}


def test_losses_depend_on_the_torch_that_computes_them(tmp_path: Path, before: dict[str, Stage]) -> None:
    after = plan(tmp_path, "data.loss_outliers=20")
    libraries = [each["prepare"].inputs["libraries"] for each in (before, after)]
    assert [isinstance(each, dict) and "torch" in each for each in libraries] == [False, True]


def test_code_depends_on_the_ruff_that_brings_it_to_a_style(tmp_path: Path, before: dict[str, Stage]) -> None:
    after = plan(tmp_path, "data.sources.0={kind: dataset, name: code_style, task: glossary, ruff: ''}")
    libraries = [each["prepare"].inputs["libraries"] for each in (before, after)]
    assert [isinstance(each, dict) and "ruff" in each for each in libraries] == [False, True]


def test_another_scenario_has_its_own_stages(tmp_path: Path, before: dict[str, Stage]) -> None:
    after = plan(tmp_path, "name=other")
    assert not {stage.key for stage in before.values()} & {stage.key for stage in after.values()}


def test_the_base_arm_is_not_asked_again_when_training_changes(
    tmp_path: Path, before: dict[str, Stage]
) -> None:
    after = plan(tmp_path, "method.epochs=9")
    assert before["answer-base"].key == after["answer-base"].key
    assert before["answer-tuned"].key != after["answer-tuned"].key
