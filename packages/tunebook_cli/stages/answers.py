"""From models to answers, and to what judges say of them."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tunebook_cli.stages.work import Outcome, Work, by_name, embedder, kept_answers, open_engine, supporting
from tunebook_inference.served import ROLE
from tunebook_run.stages import read_artifact

if TYPE_CHECKING:
    from tunebook_eval.answers import AnswerResult
    from tunebook_inference.generator import Engine
    from tunebook_inference.supporting import SupportingModel
    from tunebook_spec.base_model import AnySupportingModel, HostedModel

logger = logging.getLogger(__name__)


def answer_stage(work: Work) -> Outcome:
    from tunebook_data.contract import PROBES, check_contract, read_probes, serving_renderer
    from tunebook_eval.answer import answer
    from tunebook_eval.inputs import AnswerInputs

    inputs = AnswerInputs.model_validate(work.fields)
    data = work.parents["prepare"]
    ask = functools.partial(
        answer,
        inputs,
        data_dir=data,
        out=work.out,
        advance=work.advance,
        embed=embedder(work.settings.assets_dir),
    )
    if inputs.model is not None:
        with _elsewhere(work, inputs.arm, inputs.model) as generator:
            return _answered(ask(model_dir=None, generator=generator))
    model, engine = None, None
    if (earlier := work.request.runs.get(inputs.arm)) is not None:
        model = work.store.download(earlier) / "model"
        temperature, seed = inputs.temperature or 0.0, inputs.seed or 0
        engine = open_engine(work, model, inputs.chat_template_kwargs, temperature, seed)
        _check_merge(work, earlier, model.parent, engine)
    elif inputs.temperature is not None:
        merged = work.parents.get("merge")
        model = merged / "model" if merged else work.request.model.path
        served = serving_renderer(model, inputs.chat_template_kwargs)
        check_contract(read_probes(data / PROBES), served)
        engine = open_engine(
            work,
            model,
            inputs.chat_template_kwargs,
            inputs.temperature,
            inputs.seed or 0,
            takes_schemas=any(each.json_schema for each in inputs.sets.values()),
        )
        if merged:
            _check_merge(work, work.request.parents["merge"], merged, engine)
    together = engine is not None and work.settings.num_engines > 0
    return _answered(ask(model_dir=model, generator=engine, in_one_batch=together))


@contextlib.contextmanager
def _elsewhere(work: Work, arm: str, model: AnySupportingModel | HostedModel) -> Iterator[SupportingModel]:
    """What answers for an arm and is no model of the spec's own that runs here."""
    from tunebook_inference.supporting import open_model
    from tunebook_spec.base_model import EndpointModel, HostedModel

    if not isinstance(model, HostedModel):
        there = work.request.served if arm == ROLE else None
        own = {ROLE: there.settings(work.settings.of_model(ROLE))} if there else {}
        with supporting(work, {arm: model}, own) as models:
            found = models[arm]
            yield replace(found, who=there.who, is_remote=there.is_remote) if there else found
        return
    name, trained = model.model, work.request.parents.get("train")
    if trained is not None:
        artifact = read_artifact(work.store, trained)
        assert artifact is not None
        name = str(artifact.result["fine_tuned_model"])
    settings = work.settings.hosted.of_answers(is_tuned=trained is not None)
    reference = EndpointModel(kind="endpoint", model=name)
    with kept_answers(work) as kept:
        yield open_model(
            arm,
            reference,
            settings,
            None,
            kept,
            work.request.spec_dir,
            functools.partial(open_engine, work),
            prefix="TUNEBOOK_HOSTED",
        )


def _answered(done: AnswerResult) -> Outcome:
    tokens = f"{done.prompt_tokens} prompt and {done.completion_tokens} answer tokens"
    resumed = f", {done.num_resumed} of them by an earlier attempt" if done.num_resumed else ""
    errors = f", {done.num_errors} failed" if done.num_errors else ""
    return Outcome(done.model_dump(mode="json"), f"{done.num_answers} answers{resumed}{errors}; {tokens}")


def _check_merge(work: Work, key: str, merged: Path, engine: Engine) -> None:
    """Before the first prompt: what serves is what was trained.

    Args:
        work: the stage's.
        key: of the stage that merged.
        merged: what it left.
        engine: serves it.

    Raises:
        IntegrityError: it is not.
    """
    from tunebook_train.merge_probes import MergeProbes, check_merge

    name = work.request.stage.name
    artifact = read_artifact(work.store, key)
    if artifact is not None and artifact.result["into"] == "base":
        logger.info("%-16s is not held against training: merged into another base than it trained with", name)
        return
    probes = MergeProbes.read(merged).through(engine.dtype)
    off = check_merge(probes, engine.next_tokens)
    logger.info("%-16s says what training said in %d places, to %.4f nats", name, len(probes.probes), off)


def judge_stage(work: Work) -> Outcome:
    from tunebook_eval.inputs import JudgeInputs
    from tunebook_eval.judging import judge_answers
    from tunebook_model.digests import model_digest

    inputs = JudgeInputs.model_validate(work.fields)
    is_judged = False
    if (ready := work.request.supporting.get(inputs.role)) is not None:
        merged = [path / "model" for name, path in work.parents.items() if name == "merge"]
        tuned = [model_digest(each, work.settings.cache_dir) for each in merged]
        is_judged = ready.digest in (work.request.model.digest, *tuned)
    with supporting(work, {inputs.role: inputs.model}) as models:
        done = judge_answers(
            inputs,
            judge=models[inputs.role],
            is_judged=is_judged,
            data_dir=work.parents["prepare"],
            arms=by_name(work.parents, "answer-"),
            spec_dir=work.request.spec_dir,
            out=work.out,
            advance=work.advance,
        )
    return Outcome(done.model_dump(mode="json", exclude={"golden"}), done.summary())
