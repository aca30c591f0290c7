"""One job for one stage, whatever is killed when: each step is on the disk before and after it is taken.

A step of which only the intent is there may have been taken: the provider is then asked before it is taken
again. Files are known by a name that holds their digest, jobs by the stage's digest in their metadata.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from typing import Any

from openai.types import FileObject
from openai.types.fine_tuning import FineTuningJob

from tunebook_run.stages import Stage
from tunebook_run.store import Store
from tunebook_spec.errors import StageError
from tunebook_spec.fields import Frozen
from tunebook_spec.method import DpoObjective, HostedMethod
from tunebook_train.hosted.export import Export
from tunebook_train.hosted.provider import FAILED, Provider, Refusal
from tunebook_train.hosted.refusals import cannot_train

logger = logging.getLogger(__name__)

STATE = "job.json"
STAGE, ATTEMPT = "tunebook_stage", "tunebook_attempt"
"""Keys of a job's metadata."""
_NAME_DIGITS = 16


class State(Frozen):
    """What is known of the job; written before and after each step."""

    attempt: int = 1
    """Those before it have failed, or were cancelled."""
    training_file: str | None = None
    validation_file: str | None = None
    is_uploading: bool = False
    is_creating: bool = False
    """Whether a job may be there of which only the provider knows."""
    job: str | None = None
    has_ended: bool = False
    """It failed or was cancelled; the next run begins another attempt."""


@dataclass
class Ledger:
    """The state of a stage's job in the store."""

    store: Store
    stage: Stage

    def read(self) -> State:
        try:
            return State.model_validate_json(self.store.read(f"{self.stage.key}/{STATE}"))
        except FileNotFoundError:
            return State()

    def write(self, state: State, **changes: Any) -> State:
        changed = state.model_copy(update=changes)
        self.store.write(f"{self.stage.key}/{STATE}", changed.model_dump_json(indent=1).encode())
        return changed


def has_job(store: Store, stage: Stage) -> bool:
    """Whether a job is under way, or was left to be found."""
    state = Ledger(store, stage).read()
    return (state.job is not None or state.is_creating) and not state.has_ended


def the_job(
    ledger: Ledger,
    provider: Provider,
    method: HostedMethod,
    *,
    seed: int,
    training: Export,
    validation: Export | None,
) -> FineTuningJob:
    """The stage's one job: the one that is known, one that is found at the provider, or else a new one.

    Raises:
        StageError: the provider refuses it, answers no more, or has lost it.
    """
    state = ledger.read()
    if state.has_ended:
        state = ledger.write(State(attempt=state.attempt + 1))
    if state.job is not None:
        return _known(ledger, provider, state.job)
    if not state.is_creating and (found := _earlier(ledger, provider)) is not None:
        if found.status not in FAILED:
            logger.info("train            found job %s of an earlier run, which goes on", found.id)
            ledger.write(state, job=found.id)
            return found
        attempt = int((found.metadata or {}).get(ATTEMPT, "1")) + 1
        state = ledger.write(State(attempt=max(state.attempt, attempt)))
    state = ledger.write(state, is_uploading=True)
    try:
        if state.training_file is None:
            state = ledger.write(state, training_file=_uploaded(provider, training))
        if state.validation_file is None and validation is not None:
            state = ledger.write(state, validation_file=_uploaded(provider, validation))
        state = ledger.write(state, is_uploading=False, is_creating=True)
        job = provider.patiently(lambda: _found_or_created(ledger, provider, method, state, seed))
    except Refusal as refusal:
        ledger.write(State(attempt=state.attempt))
        raise cannot_train(provider, method, refusal) from None
    ledger.write(state, job=job.id)
    if (job.metadata or {}).get(STAGE) != ledger.stage.digest:
        logger.warning(
            "%s keeps no metadata of job %s: a run that is killed while it creates a job may create another",
            provider.host,
            job.id,
        )
    return job


def _known(ledger: Ledger, provider: Provider, job: str) -> FineTuningJob:
    try:
        return provider.job(job)
    except Refusal as refusal:
        place = f"{ledger.stage.key}/{STATE} under {ledger.store.url.split('?')[0]}"
        raise StageError(
            f"{provider.host} does not show job {job}, which this stage has created ({refusal.detail}): use"
            f" the key of its project, or delete {place} to pay for another"
        ) from None


def _earlier(ledger: Ledger, provider: Provider) -> FineTuningJob | None:
    """The newest job of the stage; one that has not failed goes first."""
    try:
        jobs = list(provider.jobs({STAGE: ledger.stage.digest}))
    except Refusal as refusal:
        raise StageError(f"{provider.host} lists no jobs, so none is created: {refusal.detail}") from None
    return next((job for job in jobs if job.status not in FAILED), jobs[0] if jobs else None)


def _found_or_created(
    ledger: Ledger, provider: Provider, method: HostedMethod, state: State, seed: int
) -> FineTuningJob:
    tag = {STAGE: ledger.stage.digest, ATTEMPT: str(state.attempt)}
    found = next(provider.jobs(tag), None)
    if found is not None:
        return found
    optional = {"suffix": method.suffix, "validation_file": state.validation_file}
    return provider.create(
        f"{ledger.stage.digest}-{state.attempt}",
        model=method.model,
        training_file=state.training_file,
        method=_wire_method(method),
        seed=seed,
        metadata=tag,
        **{name: value for name, value in optional.items() if value is not None},
    )


def _wire_method(method: HostedMethod) -> dict[str, Any]:
    hyperparameters = method.hyperparameters.model_dump()
    if isinstance(method.objective, DpoObjective):
        beta = {"beta": method.objective.beta}
        return {"type": "dpo", "dpo": {"hyperparameters": {**hyperparameters, **beta}}}
    return {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}


def _uploaded(provider: Provider, export: Export) -> str:
    """The id of a file of this content: one that is there already, or a new one."""
    digest = hashlib.sha256(export.path.read_bytes()).hexdigest()[:_NAME_DIGITS]
    name, size = f"tunebook-{digest}-{export.path.name}", export.path.stat().st_size

    def find_or_upload() -> FileObject:
        for file in provider.files():
            if (file.filename, file.bytes) == (name, size) and file.status != "error":
                return file
        return provider.upload(export.path, name)

    return provider.patiently(find_or_upload).id
