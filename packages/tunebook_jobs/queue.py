"""Jobs as workers see them: taken under a lease, renewed by heartbeats, ended by whoever holds the lease.

All that a worker writes of a job is conditional on its lease: one that lost it changes nothing any more.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from tunebook_jobs.database import Database
from tunebook_jobs.events import NewEvent, add_event
from tunebook_jobs.ids import checkpoint_name, new_id
from tunebook_jobs.tables import Checkpoint, File, Job, TunedModel

OPEN = ("queued", "running")
"""What workers take up."""
UNFINISHED = (*OPEN, "paused")
"""What still needs its files, and the model that it starts from."""
MAX_ATTEMPTS = 10
"""A job that ends each worker or process that has it, with no step more told, has to end some time."""


@dataclass(frozen=True)
class Made:
    """What a job that succeeds has made."""

    model: str
    run: str
    """The run that made it, `ftjob_...@1`."""
    trained_tokens: int
    result_file: File
    step: int
    """The last one."""
    metrics: dict[str, Any]
    """Of that step."""


@dataclass(frozen=True)
class JobQueue:
    database: Database
    owner: str
    """The worker, by a name that no other has."""
    lease_s: float

    def take(self) -> Job | None:
        """The oldest job that nobody works on, leased to this worker; None if there is none."""
        now = time.time()
        is_free = or_(Job.lease_until.is_(None), Job.lease_until < now)
        free = select(Job).where(Job.status.in_(OPEN), is_free).order_by(Job.number).limit(1)
        with self.database.write() as session:
            job = session.scalar(free.with_for_update(skip_locked=True))
            if job is None:
                return None
            if job.attempts >= MAX_ATTEMPTS:
                told = f"The job was taken up {job.attempts} times; each time its worker or process was lost."
                end(session, job, "failed", {"code": "server_error", "message": told, "param": None})
                return None
            event = NewEvent("Fine-tuning job started")
            if job.status == "running":
                event = NewEvent("The job is taken up again from its last checkpoint", "warn")
            add_event(session, job.id, event)
            job.status, job.lease_owner, job.lease_until = "running", self.owner, now + self.lease_s
            job.attempts += 1
            return job

    def tell(self, job: str, *events: NewEvent, finish_at: int | None = None) -> bool:
        """Say that the worker lives, and what happened to its job.

        Returns:
            False if it may not go on: another worker has the job, or it is not to be run any more.
        """
        with self.database.write() as session:
            if not self._holds(session, job):
                return False
            told = [event for event in events if add_event(session, job, event)]
            if any(event.step is not None for event in told):
                session.execute(update(Job).where(Job.id == job).values(attempts=0))
            if finish_at is not None:
                session.execute(update(Job).where(Job.id == job).values(estimated_finish=finish_at))
            return True

    def release(self, job: str) -> None:
        """Let others have it, if it is still to be run."""
        with self.database.write() as session:
            mine = (Job.id == job, Job.lease_owner == self.owner)
            session.execute(update(Job).where(*mine).values(lease_owner=None, lease_until=None))

    def fail(self, job: str, error: Mapping[str, Any]) -> None:
        with self.database.write() as session:
            if self._holds(session, job):
                end(session, session.scalars(select(Job).where(Job.id == job)).one(), "failed", error)

    def succeed(self, job_id: str, made: Made) -> bool:
        """End a job with its model; False if it is not this worker's any more."""
        with self.database.write() as session:
            if not self._holds(session, job_id):
                return False
            job = session.scalars(select(Job).where(Job.id == job_id)).one()
            now = int(time.time())
            tuned = TunedModel(id=made.model, project=job.project, job=job.id, created_at=now, run=made.run)
            checkpoint = Checkpoint(
                id=new_id("ftckpt_"),
                job=job.id,
                created_at=now,
                step_number=made.step,
                model=checkpoint_name(made.model, made.step),
                metrics=made.metrics,
            )
            session.add_all([made.result_file, tuned, checkpoint])
            job.fine_tuned_model, job.trained_tokens = made.model, made.trained_tokens
            job.result_files = [made.result_file.id]
            add_event(session, job.id, NewEvent(f"New fine-tuned model created: {made.model}"))
            end(session, job, "succeeded")
            add_event(session, job.id, NewEvent("The job has successfully completed"))
            return True

    def _holds(self, session: Session, job: str) -> bool:
        """Whether the job is this worker's; its lease is renewed by that."""
        held = (Job.id == job, Job.lease_owner == self.owner, Job.status == "running")
        done = session.execute(update(Job).where(*held).values(lease_until=time.time() + self.lease_s))
        return bool(done.rowcount)  # type: ignore[attr-defined]


def end(session: Session, job: Job, status: str, error: Mapping[str, Any] | None = None) -> None:
    """Set a job's last state."""
    job.status, job.finished_at, job.estimated_finish = status, int(time.time()), None
    job.error = None if error is None else dict(error)
    if error is not None:
        add_event(session, job.id, NewEvent(error["message"], "error", {"code": error["code"]}))
