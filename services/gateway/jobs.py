"""Routes of fine-tuning jobs."""

from __future__ import annotations

import secrets
import time
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from sqlalchemy import ColumnElement, Select, exists, func, select
from sqlalchemy.orm import Session

from gateway.errors import ApiError, not_found
from gateway.files import find_file
from gateway.models import find_model
from gateway.paging import page
from gateway.state import CallerOf, State, StateOf
from gateway.wire import (
    CreateJob,
    FineTuningJob,
    Hyperparameters,
    JobCheckpoint,
    JobError,
    JobEvent,
    Listed,
    Method,
    Supervised,
    listed,
)
from tunebook_jobs import hyperparameters
from tunebook_jobs.events import NewEvent, add_event
from tunebook_jobs.ids import new_id
from tunebook_jobs.queue import end
from tunebook_jobs.tables import Checkpoint, Event, File, Job
from tunebook_jobs.training_file import MIN_EXAMPLES

DEFAULT_BETA = 0.1

router = APIRouter(prefix="/fine_tuning/jobs", tags=["Fine-tuning"])


@router.post("")
def create_job(caller: CallerOf, state: StateOf, body: CreateJob) -> FineTuningJob:
    if body.integrations:
        raise ApiError(400, "No integration is supported here.", param="integrations", code="invalid_value")
    method = _method(body)
    with state.database.write() as session:
        model = find_model(session, state, caller.project, body.model, lock="use")
        training = find_file(session, caller.project, body.training_file, "training_file", lock="use")
        validation = None
        if body.validation_file is not None:
            validation = find_file(
                session, caller.project, body.validation_file, "validation_file", lock="use"
            )
        _check_purpose(training, "training_file")
        _check_purpose(validation, "validation_file")
        if model.tuned is not None:
            base: dict[str, Any] = {"kind": "run", "run": model.tuned.run}
        else:
            base = state.settings.base_models[model.on_server].model_dump(mode="json")
        asked = (method.dpo if method.type == "dpo" else method.supervised) or Supervised()
        job = Job(
            id=new_id("ftjob-"),
            project=caller.project,
            created_at=int(time.time()),
            status="queued",
            model=body.model,
            base_model=base,
            training_file=training.id,
            validation_file=validation.id if validation else None,
            method=method.model_dump(exclude_none=True),
            hyperparameters=_resolved(asked.hyperparameters.model_dump(), method, training),
            seed=secrets.randbelow(2**31) if body.seed is None else body.seed,
            suffix=body.suffix,
            labels=body.metadata,
            result_files=[],
        )
        session.add(job)
        session.flush()
        _begin(session, job, training, validation, model.on_server)
        return _shown(job)


def _method(body: CreateJob) -> Method:
    """The method, also where it was asked for in the old way."""
    method = body.method
    if method is None:
        return Method(
            type="supervised",
            supervised=Supervised(hyperparameters=body.hyperparameters or Hyperparameters()),
        )
    for name in {"supervised", "dpo"} - {method.type}:
        if getattr(method, name) is not None:
            raise ApiError(
                400, f"'method.{name}' was given for type '{method.type}'.", param=f"method.{name}"
            )
    if body.hyperparameters is not None:
        message = "'hyperparameters' is the old place of what 'method' says: leave it out."
        raise ApiError(400, message, param="hyperparameters")
    return method


def _resolved(asked: dict[str, Any], method: Method, training: File) -> dict[str, Any]:
    known = hyperparameters.resolved(asked, max(1, training.num_rows or 0))
    return {"beta": DEFAULT_BETA, **known} if method.type == "dpo" else known


def _check_purpose(file: File | None, param: str) -> None:
    if file is not None and file.purpose != "fine-tune":
        message = f"File {file.id} has purpose '{file.purpose}'; training takes 'fine-tune'."
        raise ApiError(400, message, param=param, code="invalid_file_purpose")


def _begin(session: Session, job: Job, training: File, validation: File | None, base: str) -> None:
    """The first events, and the end of a job whose files cannot be used."""
    stands_for = "" if base == job.model else f" ({job.model} is {base} here)"
    add_event(session, job.id, NewEvent(f"Created fine-tuning job: {job.id}{stands_for}"))
    add_event(session, job.id, NewEvent(f"Validating training file: {training.id}"))
    wanted = "preference" if job.method["type"] == "dpo" else "messages"
    for file, param in ((training, "training_file"), (validation, "validation_file")):
        if file is not None and file.row_format != wanted:
            told = f"{param} holds rows of {file.row_format}; method {job.method['type']} takes {wanted}."
            error = {"code": "invalid_training_file", "message": told, "param": param}
            return end(session, job, "failed", error)
    count = training.num_rows or 0
    if count < MIN_EXAMPLES:
        told = f"Training file has {count} example(s), but must have at least {MIN_EXAMPLES} examples"
        error = {"code": "invalid_n_examples", "message": told, "param": "training_file"}
        return end(session, job, "failed", error)
    add_event(session, job.id, NewEvent("Files validated, moving job to queued state"))
    return None


@router.get("")
def list_jobs(
    request: Request,
    caller: CallerOf,
    state: StateOf,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Listed[FineTuningJob]:
    """Newest first. `metadata[key]=value` keeps those that have it, `metadata=null` those without any."""
    wanted = {
        name[len("metadata[") : -1]: value
        for name, value in request.query_params.items()
        if name.startswith("metadata[") and name.endswith("]")
    }
    query = _of_project(caller.project)
    if request.query_params.get("metadata") == "null":
        query = query.where(Job.labels.is_(None))
    with state.database.read() as session:
        for key, value in wanted.items():
            query = query.where(_has_label(session, key, value))
        rows, more = page(session, query, Job, after=after, limit=limit)
    return Listed[FineTuningJob].model_validate(listed([_shown(row) for row in rows], more))


def _has_label(session: Session, key: str, value: str) -> ColumnElement[bool]:
    """Not by a path into the JSON, in which a key may be no more than a plain word."""
    each = func.json_each if session.get_bind().dialect.name == "sqlite" else func.json_each_text
    pairs = each(Job.labels).table_valued("key", "value")
    return exists().where(pairs.c.key == key, pairs.c.value == value)


@router.get("/{job_id}")
def retrieve_job(caller: CallerOf, state: StateOf, job_id: str) -> FineTuningJob:
    with state.database.read() as session:
        return _shown(_find(session, caller.project, job_id))


@router.post("/{job_id}/cancel")
def cancel_job(caller: CallerOf, state: StateOf, job_id: str) -> FineTuningJob:
    return _change(state, caller.project, job_id, "cancelled", ("queued", "running", "paused"))


@router.post("/{job_id}/pause")
def pause_job(caller: CallerOf, state: StateOf, job_id: str) -> FineTuningJob:
    return _change(state, caller.project, job_id, "paused", ("queued", "running"))


@router.post("/{job_id}/resume")
def resume_job(caller: CallerOf, state: StateOf, job_id: str) -> FineTuningJob:
    return _change(state, caller.project, job_id, "queued", ("paused",))


def _change(state: State, project: str, job_id: str, status: str, allowed: tuple[str, ...]) -> FineTuningJob:
    """The worker that has the job finds out at its next heartbeat."""
    verb = {"cancelled": "cancel", "paused": "pause", "queued": "resume"}[status]
    with state.database.write() as session:
        job = _find(session, project, job_id, lock=True)
        if job.status not in allowed:
            message = f"Job {job.id} is {job.status}: it cannot be {verb}{'d' if verb[-1] == 'e' else 'led'}."
            raise ApiError(400, message, param="fine_tuning_job_id", code="invalid_job_status")
        if status == "cancelled":
            end(session, job, status)
        else:
            job.status, job.attempts, job.estimated_finish = status, 0, None
        told = {"cancelled": "cancelled", "paused": "paused", "queued": "resumed"}[status]
        add_event(session, job.id, NewEvent(f"The job was {told}"))
        return _shown(job)


@router.get("/{job_id}/events")
def list_events(
    caller: CallerOf,
    state: StateOf,
    job_id: str,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Listed[JobEvent]:
    with state.database.read() as session:
        job = _find(session, caller.project, job_id)
        query = select(Event).where(Event.job == job.id)
        rows, more = page(session, query, Event, after=after, limit=limit)
    shown = [JobEvent.model_validate(row, from_attributes=True) for row in rows]
    return Listed[JobEvent].model_validate(listed([each.model_copy() for each in shown], more))


@router.get("/{job_id}/checkpoints")
def list_checkpoints(
    caller: CallerOf,
    state: StateOf,
    job_id: str,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
) -> Listed[JobCheckpoint]:
    with state.database.read() as session:
        job = _find(session, caller.project, job_id)
        query = select(Checkpoint).where(Checkpoint.job == job.id)
        rows, more = page(session, query, Checkpoint, after=after, limit=limit)
    shown = [
        JobCheckpoint(
            id=row.id,
            created_at=row.created_at,
            fine_tuned_model_checkpoint=row.model,
            fine_tuning_job_id=row.job,
            metrics=row.metrics,
            step_number=row.step_number,
        )
        for row in rows
    ]
    return Listed[JobCheckpoint].model_validate(listed(shown, more))


def _of_project(project: str) -> Select[Job]:
    return select(Job).where(Job.project == project)


def _find(session: Session, project: str, job_id: str, *, lock: bool = False) -> Job:
    query = _of_project(project).where(Job.id == job_id)
    job = session.scalar(query.with_for_update() if lock else query)
    if job is None:
        raise not_found("fine-tuning job", job_id, "fine_tuning_job_id")
    return job


def _shown(job: Job) -> FineTuningJob:
    kind = job.method["type"]
    return FineTuningJob(
        id=job.id,
        created_at=job.created_at,
        error=None if job.error is None else JobError(**job.error),
        fine_tuned_model=job.fine_tuned_model,
        finished_at=job.finished_at,
        hyperparameters={name: value for name, value in job.hyperparameters.items() if name != "beta"},
        model=job.model,
        organization_id=job.project,
        result_files=job.result_files,
        seed=job.seed,
        status=job.status,
        trained_tokens=job.trained_tokens,
        training_file=job.training_file,
        validation_file=job.validation_file,
        estimated_finish=job.estimated_finish,
        metadata=job.labels,
        method={"type": kind, kind: {"hyperparameters": job.hyperparameters}},
    )
