"""Jobs as workers see them: taken under a lease, renewed by heartbeats, ended by whoever holds the lease.

All that a worker writes of a job is conditional on its lease: one that lost it changes nothing any more.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from tunebook_jobs.database import Database
from tunebook_jobs.ids import checkpoint_name, new_id
from tunebook_jobs.tables import Checkpoint, Event, File, Job, TunedModel

LEASE_S = 15.0
"""A worker that has not been heard of for so long has lost its job."""
OPEN = ("queued", "running")
"""What workers take up."""
ENDED = ("succeeded", "failed", "cancelled")

Level = Literal["info", "warn", "error"]


@dataclass(frozen=True)
class NewEvent:
    message: str
    level: Level = "info"
    data: dict[str, Any] | None = None
    step: int | None = None
    """Of metrics, which are told once a step."""


def add_event(session: Session, job: str, event: NewEvent) -> None:
    of_step = select(Event.id).where(Event.job == job, Event.step == event.step)
    if event.step is not None and session.scalar(of_step):
        return
    session.add(
        Event(
            id=new_id("ftevent-"),
            job=job,
            created_at=int(time.time()),
            level=event.level,
            message=event.message,
            type="message" if event.step is None else "metrics",
            data=event.data,
            step=event.step,
        )
    )


def take(database: Database, owner: str) -> Job | None:
    """The oldest job that nobody works on, leased to a worker; None if there is none."""
    now = time.time()
    is_free = or_(Job.lease_until.is_(None), Job.lease_until < now)
    with database.write() as session:
        found = session.scalar(
            select(Job)
            .where(Job.status.in_(OPEN), is_free)
            .order_by(Job.number)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        if found is None:
            return None
        was_running = found.status == "running"
        found.status, found.lease_owner, found.lease_until = "running", owner, now + LEASE_S
        found.attempts += 1
        if was_running:
            message = "The job is taken up again from its last checkpoint"
            add_event(session, found.id, NewEvent(message, "warn"))
        else:
            add_event(session, found.id, NewEvent("Fine-tuning job started"))
        return found


def renew(database: Database, job: str, owner: str) -> bool:
    """Say that the worker lives; False if it may not go on: another has the job, or nobody wants it run."""
    with database.write() as session:
        return _renew(session, job, owner)


def _renew(session: Session, job: str, owner: str) -> bool:
    held = (Job.id == job, Job.lease_owner == owner, Job.status == "running")
    done = session.execute(update(Job).where(*held).values(lease_until=time.time() + LEASE_S))
    return bool(done.rowcount)  # type: ignore[attr-defined]


def release(database: Database, job: str, owner: str) -> None:
    """Let others have it, if it is still to be run."""
    with database.write() as session:
        mine = (Job.id == job, Job.lease_owner == owner)
        session.execute(update(Job).where(*mine).values(lease_owner=None, lease_until=None))


def tell(database: Database, job: str, owner: str, *events: NewEvent, finish_at: int | None = None) -> bool:
    """Events of a job under way, and when it may end; False if it is not the worker's any more."""
    with database.write() as session:
        if not _renew(session, job, owner):
            return False
        for event in events:
            add_event(session, job, event)
        if finish_at is not None:
            session.execute(update(Job).where(Job.id == job).values(estimated_finish=finish_at))
        return True


def fail(database: Database, job: str, owner: str, error: Mapping[str, Any]) -> None:
    with database.write() as session:
        if _renew(session, job, owner):
            end(session, session.scalars(select(Job).where(Job.id == job)).one(), "failed", error)


def end(session: Session, job: Job, status: str, error: Mapping[str, Any] | None = None) -> None:
    """Set a job's last state."""
    job.status, job.finished_at, job.estimated_finish = status, int(time.time()), None
    job.error = None if error is None else dict(error)
    if error is not None:
        add_event(session, job.id, NewEvent(error["message"], "error", {"code": error["code"]}))


def succeed(
    database: Database,
    job_id: str,
    owner: str,
    *,
    model: str,
    run: str,
    trained_tokens: int,
    result_file: File,
    step: int,
    metrics: dict[str, Any],
) -> bool:
    """End a job with its model; False if it is not the worker's any more."""
    with database.write() as session:
        if not _renew(session, job_id, owner):
            return False
        job = session.scalars(select(Job).where(Job.id == job_id)).one()
        now = int(time.time())
        session.add(result_file)
        session.add(TunedModel(id=model, project=job.project, job=job.id, created_at=now, run=run))
        session.add(
            Checkpoint(
                id=new_id("ftckpt_"),
                job=job.id,
                created_at=now,
                step_number=step,
                model=checkpoint_name(model, step),
                metrics=metrics,
            )
        )
        job.fine_tuned_model, job.trained_tokens, job.result_files = model, trained_tokens, [result_file.id]
        add_event(session, job.id, NewEvent(f"New fine-tuned model created: {model}"))
        end(session, job, "succeeded")
        job.lease_owner = job.lease_until = None
        add_event(session, job.id, NewEvent("The job has successfully completed"))
        return True
