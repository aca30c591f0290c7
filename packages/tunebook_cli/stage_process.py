"""What the process of one stage does."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from tunebook_cli.request import Request
from tunebook_inference.served import ROLE
from tunebook_run import log
from tunebook_run.progress import Advance, progress
from tunebook_run.settings import ModelSettings, Settings
from tunebook_run.stages import Artifact, commit, find, read_artifact, stage_key, writing
from tunebook_run.store import Store, is_disk_full
from tunebook_spec.errors import TunebookError

if TYPE_CHECKING:
    from tunebook_eval.answers import AnswerResult
    from tunebook_eval.shots import Embed
    from tunebook_inference.supporting import SupportingModel
    from tunebook_inference.vllm_engine import VLLMEngine
    from tunebook_spec.base_model import AnySupportingModel
    from tunebook_train.inputs import TrainInputs
    from tunebook_train.result import TrainResult

logger = logging.getLogger(__name__)


class Outcome(NamedTuple):
    result: dict[str, Any]
    summary: str
    """What the stage did, in one line."""


class Work(NamedTuple):
    """What a stage has at hand."""

    request: Request
    settings: Settings
    store: Store
    parents: dict[str, Path]
    out: Path
    advance: Advance

    @property
    def fields(self) -> Any:
        return self.request.stage.inputs["fields"]


def main(request: Request) -> int:
    """Run the stage, and return the process's exit status."""
    settings = Settings.read()
    log.configure(settings.log, settings.log_level)
    try:
        run_stage(request, settings)
    except TunebookError as error:
        logger.error("stage %s: %s", request.stage.name, error)
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if is_disk_full(error):
            place = f"no space left under {settings.storage_url.split('?')[0]} or {tempfile.gettempdir()}"
            logger.error("stage %s: %s; free some and run again", request.stage.name, place)
        else:
            logger.exception("stage %s: this is a defect of Tunebook", request.stage.name)
        return 1
    return 0


def run_stage(request: Request, settings: Settings) -> None:
    started = time.monotonic()
    store = Store(settings.storage_url, settings.cache_dir)
    with writing(store, request.stage) as out, progress(request.stage.name) as advance:
        if find(store, request.stage) is not None:
            return
        parents = {name: store.download(key) for name, key in request.parents.items()}
        outcome = _dispatch(Work(request, settings, store, parents, out, advance))
        result = {"summary": outcome.summary, **outcome.result}
        commit(store, request.stage, result, time.monotonic() - started)


def _dispatch(work: Work) -> Outcome:
    name = work.request.stage.name
    match name.partition("-")[0]:
        case "replay":
            return _replay(work)
        case "prepare":
            return _prepare(work)
        case "train":
            return _train(work)
        case "merge":
            return _merge(work)
        case "answer":
            return _answer(work)
        case "judge":
            return _judge(work)
        case "evaluate":
            return _evaluate(work)
        case "decide":
            return _decide(work)
    raise AssertionError(name)


def _engine(
    work: Work,
    model: Path,
    kwargs: dict[str, str | bool],
    temperature: float,
    seed: int,
    *,
    takes_schemas: bool = False,
) -> VLLMEngine:
    from tunebook_inference.generator import Decoding
    from tunebook_inference.vllm_engine import VLLMEngine
    from tunebook_model.precision import compute_dtype
    from tunebook_model.render import Renderer

    precision = compute_dtype()
    logger.info("%-16s computes in %s", work.request.stage.name, precision.reason)
    renderer, decoding = Renderer.load(model, kwargs), Decoding(temperature, seed)
    return VLLMEngine(model, renderer, decoding, precision.dtype, takes_schemas=takes_schemas)


def _replay(work: Work) -> Outcome:
    from tunebook_data.inputs import ReplayInputs
    from tunebook_data.replay import replay

    inputs = ReplayInputs.model_validate(work.fields)
    model = work.request.model.path
    engine = _engine(work, model, inputs.chat_template_kwargs, 0.0, 0)
    done = replay(inputs, renderer=engine.renderer, generator=engine, out=work.out, advance=work.advance)
    return Outcome(done.model_dump(mode="json"), done.summary())


def _prepare(work: Work) -> Outcome:
    from tunebook_data.card_page import write_page
    from tunebook_data.inputs import PrepareInputs
    from tunebook_data.kept_tokens import KeptTokens, rendering_key
    from tunebook_data.prepare import prepare
    from tunebook_data.workers import open_workers

    inputs = PrepareInputs.model_validate(work.fields)
    cache_dir, model_dir, checks = work.settings.cache_dir, work.request.model.path, inputs.data.checks
    key = rendering_key(
        model_dir,
        inputs.chat_template_kwargs,
        checks,
        format=work.request.stage.inputs["format"],
        cache_dir=cache_dir,
    )
    with contextlib.ExitStack() as stack:
        models = stack.enter_context(_supporting(work, inputs.models)) if inputs.models else {}
        # What is kept of a row is one answer's tokens.
        kept = None if inputs.learns_preferences else KeptTokens(cache_dir, key, checks)
        done = prepare(
            inputs,
            model_dir=model_dir,
            spec_dir=work.request.spec_dir,
            assets_dir=work.settings.assets_dir,
            replay_dir=work.parents.get("replay"),
            out=work.out,
            advance=work.advance,
            models=models,
            workers=stack.enter_context(open_workers(work.request.ray_address)),
            kept_tokens=stack.enter_context(kept) if kept else None,
        )
    write_page(work.out)
    return Outcome(done.model_dump(mode="json"), done.summary())


@contextlib.contextmanager
def _supporting(
    work: Work,
    references: Mapping[str, AnySupportingModel],
    settings: Mapping[str, ModelSettings] = MappingProxyType({}),
) -> Iterator[dict[str, SupportingModel]]:
    """Supporting models by role, which keep what they are answered; `settings` go before the machine's."""
    from tunebook_inference.kept_answers import KeptAnswers
    from tunebook_inference.supporting import open_model

    # Beside the artifacts, since money paid for it; an object store can hold no database.
    kept = KeptAnswers((work.store.local_root or work.settings.cache_dir) / "answers.sqlite")
    try:
        yield {
            role: open_model(
                role,
                reference,
                settings.get(role, work.settings.of_model(role)),
                work.request.supporting.get(role),
                kept,
                work.request.spec_dir,
            )
            for role, reference in references.items()
        }
    finally:
        kept.close()


def _train(work: Work) -> Outcome:
    from tunebook_train.inputs import TrainInputs
    from tunebook_train.job import ADAPTER
    from tunebook_train.train import train

    assert work.request.ray_address is not None
    inputs = TrainInputs.model_validate(work.fields)
    done = train(
        inputs,
        stage=work.request.stage,
        store=work.store,
        data_key=work.request.parents["prepare"],
        model=work.request.model,
        ray_address=work.request.ray_address,
        num_workers=work.settings.num_workers,
        min_workers=work.settings.min_workers or work.settings.num_workers,
        cpus_per_worker=work.settings.cpus_per_worker,
        advance=work.advance,
    )
    if (work.out / ADAPTER).is_dir():
        digest = work.request.stage.digest
        _write_card(work, work.out / ADAPTER, inputs, done, work.request.parents["prepare"], digest)
    return Outcome(done.model_dump(mode="json"), done.summary())


def _merge(work: Work) -> Outcome:
    from tunebook_train.inputs import MergeInputs, TrainInputs
    from tunebook_train.merge import MODEL, merge
    from tunebook_train.result import TrainResult

    done = merge(
        MergeInputs.model_validate(work.fields),
        trained_dir=work.parents["train"],
        base_dir=work.request.model.path,
        out=work.out,
        advance=work.advance,
    )
    trained = read_artifact(work.store, work.request.parents["train"])
    assert trained is not None
    result = TrainResult.model_validate(_without_summary(trained))
    inputs = TrainInputs.model_validate(trained.inputs["fields"])
    parents = trained.inputs["parents"]
    assert isinstance(parents, dict)
    prepare_key = stage_key(work.request.stage.scenario, "prepare", str(parents["prepare"]))
    _write_card(work, work.out / MODEL, inputs, result, prepare_key, trained.digest)
    return Outcome(done.model_dump(mode="json"), done.summary())


def _write_card(
    work: Work, folder: Path, inputs: TrainInputs, trained: TrainResult, prepare_key: str, train_digest: str
) -> None:
    """The README.md of an adapter's folder, or of a merged model's."""
    from tunebook_data.manifest import DatasetManifest
    from tunebook_train.job import ADAPTER
    from tunebook_train.model_card import NAME, ModelFacts, model_card

    prepared = read_artifact(work.store, prepare_key)
    assert prepared is not None
    facts = ModelFacts(
        scenario=work.request.stage.scenario,
        base=work.request.model,
        inputs=inputs,
        trained=trained,
        manifest=DatasetManifest.model_validate(_without_summary(prepared)),
        digests={"prepare": prepared.digest, "train": train_digest},
    )
    (folder / NAME).write_text(model_card(facts, is_adapter=folder.name == ADAPTER))


def _without_summary(artifact: Artifact) -> dict[str, Any]:
    return {name: value for name, value in artifact.result.items() if name != "summary"}


def _answer(work: Work) -> Outcome:
    from tunebook_data.contract import PROBES, check_contract, read_probes, serving_renderer
    from tunebook_eval.answer import answer
    from tunebook_eval.inputs import AnswerInputs

    inputs = AnswerInputs.model_validate(work.fields)
    data = work.parents["prepare"]
    if inputs.model is not None:
        there = work.request.served if inputs.arm == ROLE else None
        settings = {ROLE: there.settings(work.settings.of_model(ROLE))} if there else {}
        with _supporting(work, {inputs.arm: inputs.model}, settings) as models:
            if there is not None:
                models[ROLE] = replace(models[ROLE], who=there.who, is_remote=there.is_remote)
            return _answered(
                answer(
                    inputs,
                    data_dir=data,
                    model_dir=None,
                    generator=models[inputs.arm],
                    out=work.out,
                    advance=work.advance,
                )
            )
    model, engine = None, None
    if (earlier := work.request.runs.get(inputs.arm)) is not None:
        model = work.store.download(earlier) / "model"
        temperature, seed = inputs.temperature or 0.0, inputs.seed or 0
        engine = _engine(work, model, inputs.chat_template_kwargs, temperature, seed)
    elif inputs.temperature is not None:
        merged = work.parents.get("merge")
        model = merged / "model" if merged else work.request.model.path
        served = serving_renderer(model, inputs.chat_template_kwargs)
        check_contract(read_probes(data / PROBES), served)
        engine = _engine(
            work,
            model,
            inputs.chat_template_kwargs,
            inputs.temperature,
            inputs.seed or 0,
            takes_schemas=any(each.json_schema for each in inputs.sets.values()),
        )
        if merged:
            _check_merge(work, merged, engine)
    embed = _embed(work.settings.assets_dir) if inputs.retrieval else None
    done = answer(
        inputs,
        data_dir=data,
        model_dir=model,
        generator=engine,
        out=work.out,
        advance=work.advance,
        embed=embed,
    )
    return _answered(done)


def _answered(done: AnswerResult) -> Outcome:
    tokens = f"{done.prompt_tokens} prompt and {done.completion_tokens} answer tokens"
    resumed = f", {done.num_resumed} of them by an earlier attempt" if done.num_resumed else ""
    errors = f", {done.num_errors} failed" if done.num_errors else ""
    return Outcome(done.model_dump(mode="json"), f"{done.num_answers} answers{resumed}{errors}; {tokens}")


def _embed(assets_dir: Path) -> Embed:
    from tunebook_eval.embeddings import embed

    return functools.partial(embed, assets_dir=assets_dir)


def _judge(work: Work) -> Outcome:
    from tunebook_eval.inputs import JudgeInputs
    from tunebook_eval.judging import judge_answers
    from tunebook_model.digests import model_digest

    inputs = JudgeInputs.model_validate(work.fields)
    is_judged = False
    if (ready := work.request.supporting.get(inputs.role)) is not None:
        merged = [path / "model" for name, path in work.parents.items() if name == "merge"]
        tuned = [model_digest(each, work.settings.cache_dir) for each in merged]
        is_judged = ready.digest in (work.request.model.digest, *tuned)
    with _supporting(work, {inputs.role: inputs.model}) as models:
        done = judge_answers(
            inputs,
            judge=models[inputs.role],
            is_judged=is_judged,
            data_dir=work.parents["prepare"],
            arms=_by_name(work.parents, "answer-"),
            spec_dir=work.request.spec_dir,
            out=work.out,
            advance=work.advance,
        )
    return Outcome(done.model_dump(mode="json", exclude={"golden"}), done.summary())


def _by_name(parents: Mapping[str, Path], prefix: str) -> dict[str, Path]:
    """The parents whose stage's name begins so, by what follows."""
    return {name.removeprefix(prefix): path for name, path in parents.items() if name.startswith(prefix)}


def _check_merge(work: Work, merged: Path, engine: VLLMEngine) -> None:
    """Before the first prompt: what serves is what was trained.

    Raises:
        IntegrityError: it is not.
    """
    from tunebook_train.merge_probes import MergeProbes, check_merge

    name = work.request.stage.name
    artifact = read_artifact(work.store, work.request.parents["merge"])
    if artifact is not None and artifact.result["into"] == "base":
        logger.info("%-16s is not held against training: merged into another base than it trained with", name)
        return
    probes = MergeProbes.read(merged).through(engine.dtype)
    off = check_merge(probes, engine.next_tokens)
    logger.info("%-16s says what training said in %d places, to %.4f nats", name, len(probes.probes), off)


def _evaluate(work: Work) -> Outcome:
    from tunebook_eval.evaluate import evaluate
    from tunebook_eval.inputs import EvaluateInputs

    arms, judges = _by_name(work.parents, "answer-"), _by_name(work.parents, "judge-")
    inputs = EvaluateInputs.model_validate(work.fields)
    report = evaluate(inputs, arms=arms, judges=judges, out=work.out)
    scored = f"{len(report.scores)} scores of {len(arms)} arms; {len(report.flips)} flips"
    for warning in report.warnings:
        logger.warning("%-16s %s", "evaluate", warning)
    return Outcome({"warnings": list(report.warnings)}, scored)


def _decide(work: Work) -> Outcome:
    from tunebook_data.card import read_card
    from tunebook_data.manifest import DatasetManifest
    from tunebook_eval.costs import update_seconds
    from tunebook_eval.decide import decide
    from tunebook_eval.evaluate import read_report
    from tunebook_eval.inputs import DecideInputs
    from tunebook_eval.report import summary, write_report

    inputs = DecideInputs.model_validate(work.fields)
    report = read_report(work.parents["evaluate"])
    verdict = decide(report, inputs.gates, inputs.bounds)
    # The card tells what any attempt would; a run's report also tells what this one met.
    card = read_card(work.parents["prepare"])
    prepared = read_artifact(work.store, work.request.parents["prepare"])
    assert prepared is not None
    facts = work.request.facts
    trained = work.parents.get("train")
    training_metrics = _training_metrics(trained / "metrics.jsonl") if trained else []
    price = work.settings.local_price_per_hour
    write_report(
        work.out,
        name=inputs.name,
        problem=inputs.problem,
        profile=facts["profile"],
        report=report,
        verdict=verdict,
        training_metrics=training_metrics,
        card=card.model_copy(update={"manifest": DatasetManifest.model_validate(_without_summary(prepared))}),
        stages=facts["stages"],
        price_per_hour=price,
        lineage=facts["lineage"],
    )
    update_s = update_seconds(facts["stages"], training_metrics)
    lines = summary(verdict, report, update_s=update_s, price_per_hour=price).splitlines()
    return Outcome({"verdict": verdict.outcome, "lines": lines}, f"{verdict.outcome}; report.html")


def _training_metrics(path: Path) -> list[dict[str, Any]]:
    """One entry a step, with its validation loss where there was one."""
    steps: dict[int, dict[str, Any]] = {}
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        if "step" in entry:
            steps.setdefault(entry["step"], {}).update(entry)
    return list(steps.values())
