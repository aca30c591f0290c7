"""Stage `train` under `method: hosted`: rows to a provider, and the name of the model it makes of them."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import orjson
from openai.types.fine_tuning import FineTuningJob

from tunebook_run.progress import Advance
from tunebook_run.settings import HostedSettings
from tunebook_run.stages import Stage
from tunebook_run.store import Store
from tunebook_spec.errors import StageError
from tunebook_spec.method import HostedMethod
from tunebook_train.hosted import metrics
from tunebook_train.hosted.export import Export, export
from tunebook_train.hosted.follow import events_of, follow, leave, uninterrupted
from tunebook_train.hosted.job import Ledger, has_made_nothing, hyperparameters, the_job
from tunebook_train.hosted.provider import Provider, Refusal
from tunebook_train.inputs import HostedInputs
from tunebook_train.job import METRICS
from tunebook_train.result import HostedResult

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints.jsonl"
_MILLION = 1_000_000


def train_hosted(
    inputs: HostedInputs,
    *,
    stage: Stage,
    store: Store,
    data_dir: Path,
    out: Path,
    settings: HostedSettings,
    sends_personal: bool,
    advance: Advance,
) -> HostedResult:
    """Have a provider train, and bring home what it tells of that.

    Args:
        inputs: what of the spec this reads.
        stage: this one; its digest stands in the job's metadata.
        store: keeps what is known of the job.
        data_dir: what `prepare` left.
        out: gets the files that were sent, events, metrics, checkpoints and result files.
        settings: where the provider is, and what it may cost.
        sends_personal: whether rows may leave in which personal data are found.
        advance: told of the steps, if the provider tells them.

    Raises:
        DataError: the provider would refuse the rows.
        StageError: the budget would not hold, or the provider refuses, fails, or answers no more.
    """
    started = time.monotonic()
    method, provider, ledger = inputs.method, Provider(settings), Ledger(store, stage)
    training, validation = (
        export(side, method.objective, data_dir=data_dir, out=out, sends_personal=sends_personal)
        for side in ("train", "validation")
    )
    job = the_job(
        ledger,
        provider,
        method,
        seed=inputs.seed,
        training=training,
        validation=validation if validation.rows else None,
        before_paying=lambda: check_budget(training, method, settings),
    )
    try:
        job = follow(provider, job.id, out, advance)
    except KeyboardInterrupt:
        with uninterrupted():
            if leave(provider, job.id):
                ledger.write(ledger.read(), has_ended=True)
        raise
    if job.status != "succeeded" or has_made_nothing(job):
        ledger.write(ledger.read(), has_ended=True)
        raise StageError(_why(provider, job))
    assert job.fine_tuned_model is not None
    entries, checkpoints = _bring_home(provider, job, out)
    losses = [each["loss"] for each in entries if "loss" in each]
    validated = [each["validation_loss"] for each in entries if "validation_loss" in each]
    return HostedResult(
        provider=provider.host,
        base_model=job.model,
        job=job.id,
        fine_tuned_model=job.fine_tuned_model,
        training_file=job.training_file,
        validation_file=job.validation_file,
        hyperparameters=hyperparameters(job),
        rows=training.rows,
        withheld=training.withheld + validation.withheld,
        trained_tokens=job.trained_tokens,
        cost=_cost(job.trained_tokens, settings),
        steps=int(entries[-1]["step"]) if entries else None,
        loss=losses[-1] if losses else None,
        validation_loss=validated[-1] if validated else None,
        checkpoints=checkpoints,
        job_seconds=None if job.finished_at is None else job.finished_at - job.created_at,
        seconds=round(time.monotonic() - started, 1),
    )


def check_budget(training: Export, method: HostedMethod, settings: HostedSettings) -> None:
    """Say what the job will take by our count, and refuse what the budget does not cover.

    Raises:
        StageError: before anything is uploaded.
    """
    epochs = method.hyperparameters.n_epochs
    limits = (settings.training_budget_tokens, settings.training_budget_cost)
    if epochs == "auto":
        if limits != (None, None):
            raise StageError(
                "a budget for training needs the number of epochs, which `auto` leaves to the provider: set"
                " `method.hyperparameters.n_epochs`"
            )
        logger.info("train            %d rows, %d tokens an epoch", training.rows, training.tokens)
        return
    tokens = epochs * training.tokens
    cost = _cost(tokens, settings)
    told = f"{training.rows} rows, {epochs} epochs: about {tokens} tokens by the tokenizer of `base_model`"
    told += "" if cost is None else f", about {cost:.4f} of money"
    logger.info("train            %s", told)
    for name, value, limit in (("TOKENS", tokens, limits[0]), ("COST", cost, limits[1])):
        if limit is not None and value is not None and value > limit:
            setting = f"TUNEBOOK_HOSTED__TRAINING_BUDGET_{name}={limit}"
            raise StageError(f"{told}; that is above {setting}, and nothing was uploaded")


def _cost(tokens: int | None, settings: HostedSettings) -> float | None:
    known = tokens is not None and settings.training_price is not None
    return settings.training_price * tokens / _MILLION if known else None  # type: ignore[operator]


def _why(provider: Provider, job: FineTuningJob) -> str:
    again = "the same command creates another job"
    if job.status == "cancelled":
        return f"job {job.id} at {provider.host} was cancelled; {again}"
    if has_made_nothing(job):
        return (
            f"job {job.id} at {provider.host} has succeeded and names no model; it is paid for, most likely:"
            f" look at it there before {again}, which is paid for too"
        )
    if job.error is None or not job.error.message:
        return f"job {job.id} at {provider.host} ended as {job.status} without a model; {again}"
    param = f" ({job.error.param})" if job.error.param else ""
    said = provider.said(f"{job.error.code}: {job.error.message}")
    return f"job {job.id} at {provider.host} failed: {said}{param}; mend that, and {again}"


def _bring_home(provider: Provider, job: FineTuningJob, out: Path) -> tuple[list[dict[str, float]], int]:
    """Write what the provider tells of the training; its steps, and how many checkpoints it kept."""
    contents = []
    try:
        for number, file in enumerate(job.result_files or ()):
            contents.append(provider.said(metrics.text_of(provider.content(file), file)))
            (out / f"results-{number}.csv").write_text(contents[-1])
        checkpoints = [provider.said(each.to_dict()) for each in provider.checkpoints(job.id)]
    except Refusal as refusal:
        logger.warning("%s does not give all of job %s: %s", provider.host, job.id, refusal.detail)
        checkpoints = []
    lines = (orjson.dumps(each, option=orjson.OPT_APPEND_NEWLINE) for each in checkpoints)
    (out / CHECKPOINTS).write_bytes(b"".join(lines))
    entries = metrics.of_results(contents) or metrics.of_events(events_of(job.id, out))
    (out / METRICS).write_text("".join(json.dumps(each) + "\n" for each in entries))
    return entries, len(checkpoints)
