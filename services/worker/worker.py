"""Takes jobs and runs them one by one, each in a process of its own; may be killed at any moment."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tunebook_jobs.database import Database
from tunebook_jobs.events import NewEvent
from tunebook_jobs.queue import JobQueue
from tunebook_jobs.tables import Job
from tunebook_run.settings import Settings
from tunebook_run.store import Store
from tunebook_spec.errors import DataError, TunebookError
from worker.following import Follower
from worker.job_run import JobRun, job_folder, prepare_job
from worker.outcome import BAD_INPUT, KILLED, LOCKED, conclude, failure

logger = logging.getLogger(__name__)

IDLE_S = 0.5
"""Between two looks for a job."""
BEAT_S = 1.0
"""Between two heartbeats, at which a job is also found to be cancelled or paused."""


class Worker:
    def __init__(self, settings: Settings, store: Store, database: Database) -> None:
        name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self.queue = JobQueue(database, name, settings.gateway.lease_s)
        self._settings, self._store = settings, store
        self._stop = threading.Event()

    def stop(self) -> None:
        """Let the job go, for another worker to take up, and return from `run`."""
        self._stop.set()

    def run(self) -> None:
        logger.info("worker %s waits for jobs", self.queue.owner)
        while not self._stop.is_set():
            job = self.queue.take()
            if job is None:
                self._stop.wait(IDLE_S)
                continue
            logger.info("%s taken, attempt %d", job.id, job.attempts)
            try:
                with job_folder(job, self._settings) as folder:
                    self._work(job, folder)
            except TunebookError as error:
                status = BAD_INPUT if isinstance(error, DataError) else TunebookError.exit_status
                self.queue.fail(job.id, failure(status, str(error)))
            finally:
                self.queue.release(job.id)

    def _work(self, job: Job, folder: Path) -> None:
        with self._beating(job):
            prepare_job(job, self._settings, self._store, folder)
        follower = Follower(job, self._store)
        with JobRun(folder) as running:
            while (status := running.wait(BEAT_S)) is None:
                told = follower.fresh()
                holds = self.queue.tell(job.id, *told, finish_at=follower.finish_at())
                if self._stop.is_set() or not holds:
                    logger.info("%s is let go", job.id)
                    return
        if status == LOCKED:
            logger.warning("%s is still run by a process of the worker that had it before", job.id)
            time.sleep(BEAT_S)
            return
        told = follower.fresh()
        if status < 0 or status == KILLED:
            # As if the worker were lost with it: the queue bounds how often.
            reason = running.error or f"The job's process was ended by {signal.Signals(-status).name}"
            self.queue.tell(job.id, *told, NewEvent(reason, "warn"))
            logger.warning("%s: %s", job.id, reason)
            return
        self.queue.tell(job.id, *told)
        conclude(self.queue, self._store, job, status, running.error)

    @contextmanager
    def _beating(self, job: Job) -> Iterator[None]:
        """Keep the lease meanwhile: files and models may come from far away."""
        is_over = threading.Event()

        def beat() -> None:
            while not is_over.wait(BEAT_S):
                self.queue.tell(job.id)

        beating = threading.Thread(target=beat)
        beating.start()
        try:
            yield
        finally:
            is_over.set()
            beating.join()
