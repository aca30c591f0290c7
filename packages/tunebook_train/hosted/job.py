"""One job for one stage, whatever is killed when: each step is on the disk before and after it is taken.

A step of which only the intent is there may have been taken: the provider is then asked before it is taken
again. Files are known by a name that holds their digest, jobs by the stage's digest in their metadata, or,
where a provider keeps none, by their files, seed and hyperparameters among those that were not there before.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
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
    jobs_before: tuple[str, ...] = ()
    """Jobs on the training file that were there before one was created, and so are not it."""
    job: str | None = None
    has_ended: bool = False
    """It failed or was cancelled; the next run begins another attempt."""


@dataclass
class Ledger:
    """The state of a stage's job in the store, and its copy on this machine, which `commit` uploads."""

    store: Store
    stage: Stage

    @property
    def place(self) -> str:
        return f"{self.stage.key}/{STATE} under {self.store.url.split('?')[0]}"

    def read(self) -> State:
        try:
            content = self.store.read(f"{self.stage.key}/{STATE}")
        except FileNotFoundError:
            return State()
        self._copy(content)
        return State.model_validate_json(content)

    def write(self, state: State, **changes: Any) -> State:
        changed = state.model_copy(update=changes)
        content = changed.model_dump_json(indent=1).encode()
        self.store.write(f"{self.stage.key}/{STATE}", content)
        self._copy(content)
        return changed

    def _copy(self, content: bytes) -> None:
        folder = self.store.folder(self.stage.key)
        if self.store.local_root is None and folder.exists():
            (folder / STATE).write_bytes(content)


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
    before_paying: Callable[[], None],
) -> FineTuningJob:
    """The stage's one job: the one that is known, one that is found at the provider, or else a new one.

    Args:
        ledger: what is known of it.
        provider: has it, or gets it.
        method: what is asked for; likewise `seed`.
        seed: of the job.
        training: the file to train on.
        validation: the file to validate on, if there is one.
        before_paying: called before anything is uploaded or created, and not where a job is there.

    Raises:
        StageError: the provider refuses it, answers no more, or has lost it; or nobody can tell whether it is
            there.
    """
    state = ledger.read()
    if state.has_ended:
        state = ledger.write(State(attempt=state.attempt + 1))
    if state.job is not None:
        return _known(ledger, provider, state.job)
    if state.is_creating:
        found = _created_unseen(ledger, provider, state, _parameters(ledger, method, state, seed))
    else:
        found, attempt = _earlier(ledger, provider, state.attempt)
        if attempt != state.attempt:
            state = ledger.write(State(attempt=attempt))
    if found is None:
        before_paying()
        found = _created(ledger, provider, method, state, seed, training, validation)
    else:
        logger.info("train            found job %s of an earlier run, which goes on", found.id)
        ledger.write(state, job=found.id)
    return found


def _known(ledger: Ledger, provider: Provider, job: str) -> FineTuningJob:
    try:
        return provider.job(job)
    except Refusal as refusal:
        raise StageError(
            f"{provider.host} does not show job {job}, which this stage has created ({refusal.detail}): use"
            f" the key of its project, or delete {ledger.place} to pay for another"
        ) from None


def _earlier(ledger: Ledger, provider: Provider, attempt: int) -> tuple[FineTuningJob | None, int]:
    """The newest job of the stage that has not failed; else none, and the attempt after all that have."""
    jobs = list(_listed(provider, {STAGE: ledger.stage.digest}))
    for job in jobs:
        if job.status in FAILED:
            continue
        if has_made_nothing(job) and _attempt(job) < attempt:  # whoever ran that attempt was told
            logger.warning("job %s at %s named no model: another is paid for", job.id, provider.host)
            continue
        return job, attempt
    return None, max([attempt, *(_attempt(job) + 1 for job in jobs)])


def has_made_nothing(job: FineTuningJob) -> bool:
    """Whether it has succeeded, as the provider says, and names no model all the same."""
    return job.status == "succeeded" and not job.fine_tuned_model


def _attempt(job: FineTuningJob) -> int:
    return int((job.metadata or {}).get(ATTEMPT, "1"))


def _listed(provider: Provider, metadata: dict[str, str]) -> Iterator[FineTuningJob]:
    try:
        yield from provider.jobs(metadata)
    except Refusal as refusal:
        raise StageError(f"{provider.host} lists no jobs, so none is created: {refusal.detail}") from None


def _created(
    ledger: Ledger,
    provider: Provider,
    method: HostedMethod,
    state: State,
    seed: int,
    training: Export,
    validation: Export | None,
) -> FineTuningJob:
    try:
        state = ledger.write(state, is_uploading=True)
        if state.training_file is None:
            state = ledger.write(state, training_file=_uploaded(provider, training))
        if state.validation_file is None and validation is not None:
            state = ledger.write(state, validation_file=_uploaded(provider, validation))
        if not state.is_creating:
            there = [job.id for job in _listed(provider, {}) if job.training_file == state.training_file]
            state = ledger.write(state, is_uploading=False, is_creating=True, jobs_before=tuple(there))
        asked = _parameters(ledger, method, state, seed)
        key = f"{ledger.stage.digest}-{state.attempt}"
        job = provider.patiently(
            lambda: _created_unseen(ledger, provider, state, asked) or provider.create(key, **asked)
        )
    except Refusal as refusal:
        ledger.write(State(attempt=state.attempt))
        raise cannot_train(provider, method, refusal) from None
    ledger.write(state, job=job.id)
    if (job.metadata or {}).get(STAGE) != ledger.stage.digest:
        logger.warning(
            "%s keeps no metadata of job %s: another machine will not find it there", provider.host, job.id
        )
    return job


def _created_unseen(
    ledger: Ledger, provider: Provider, state: State, asked: dict[str, Any]
) -> FineTuningJob | None:
    """The job that a call has made whose answer was lost, if it has made one.

    Raises:
        StageError: some may be it, and nobody can tell.
    """
    jobs = [job for job in _listed(provider, {}) if job.id not in state.jobs_before]
    tagged = [job for job in jobs if asked["metadata"].items() <= (job.metadata or {}).items()]
    if tagged:
        return tagged[0]
    alike = [job for job in jobs if STAGE not in (job.metadata or {}) and _may_be(job, asked)]
    same = [job for job in alike if _takes(job, asked)]
    if len(same) == 1:
        return same[0]
    if alike:
        names = ", ".join(job.id for job in alike)
        raise StageError(
            f"{provider.host} did not answer when this stage's job was created, keeps no metadata, and shows"
            f" jobs that may be it: {names}. Look at them there: write the id of the right one as `job` into"
            f" {ledger.place}, or, if none is, set `is_creating` to false there to pay for another"
        )
    return None


def _may_be(job: FineTuningJob, asked: dict[str, Any]) -> bool:
    """Whether files, seed and suffix, as far as they are told, are those that were asked for."""
    told = job.to_dict()
    told.setdefault("suffix", told.get("user_provided_suffix"))
    names = ("training_file", "validation_file", "seed", "suffix")
    return all(told.get(name) in (None, asked.get(name)) for name in names)


def _takes(job: FineTuningJob, asked: dict[str, Any]) -> bool:
    """Whether it has the hyperparameters that were asked for, where `auto` may be anything."""
    wanted, told = asked["method"][asked["method"]["type"]]["hyperparameters"], hyperparameters(job)
    return all(told.get(name, value) == value for name, value in wanted.items() if value != "auto")


def hyperparameters(job: FineTuningJob) -> dict[str, Any]:
    """Those that the provider has taken, with what `auto` became; none where it does not tell."""
    of_method = job.method and (job.method.supervised or job.method.dpo)
    taken = (of_method and of_method.hyperparameters) or job.hyperparameters
    return {name: value for name, value in taken.to_dict().items() if value is not None} if taken else {}


def _parameters(ledger: Ledger, method: HostedMethod, state: State, seed: int) -> dict[str, Any]:
    """What a job is asked for by."""
    optional = {"suffix": method.suffix, "validation_file": state.validation_file}
    return {
        "model": method.model,
        "training_file": state.training_file,
        "method": _wire_method(method),
        "seed": seed,
        "metadata": {STAGE: ledger.stage.digest, ATTEMPT: str(state.attempt)},
        **{name: value for name, value in optional.items() if value is not None},
    }


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
