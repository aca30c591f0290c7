"""Takes jobs and runs them one by one, each in a process of its own; may be killed at any moment."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time

from tunebook_jobs import queue
from tunebook_jobs.database import Database
from tunebook_jobs.tables import Job
from tunebook_run.settings import Settings
from tunebook_run.store import Store
from tunebook_spec.errors import TunebookError
from worker.following import Follower
from worker.job_run import JobRun, prepare_job
from worker.outcome import conclude

logger = logging.getLogger(__name__)

IDLE_S = 0.5
"""Between two looks for a job."""
BEAT_S = 1.0
"""Between two heartbeats, at which a job is also found to be cancelled or paused."""


class Worker:
    def __init__(self, settings: Settings, store: Store, database: Database) -> None:
        self.name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._settings, self._store, self._database = settings, store, database
        self._stop = threading.Event()

    def stop(self) -> None:
        """Let the job go, for another worker to take up, and return from `run`."""
        self._stop.set()

    def run(self) -> None:
        logger.info("worker %s waits for jobs", self.name)
        while not self._stop.is_set():
            job = queue.take(self._database, self.name)
            if job is None:
                self._stop.wait(IDLE_S)
                continue
            logger.info("%s taken, attempt %d", job.id, job.attempts)
            try:
                self._work(job)
            except TunebookError as error:
                failure = {"code": "server_error", "message": str(error), "param": None}
                queue.fail(self._database, job.id, self.name, failure)
            finally:
                queue.release(self._database, job.id, self.name)

    def _work(self, job: Job) -> None:
        folder = prepare_job(job, self._settings, self._store)
        follower = Follower(job, self._store)
        with JobRun(folder, self._settings) as running:
            beaten = 0.0
            while running.exit_status() is None:
                if time.monotonic() - beaten >= BEAT_S:
                    beaten = time.monotonic()
                    told = follower.fresh()
                    if self._stop.is_set() or not queue.tell(
                        self._database, job.id, self.name, *told, finish_at=follower.finish_at()
                    ):
                        logger.info("%s is let go", job.id)
                        return
                time.sleep(0.1)
            status = running.exit_status()
        assert status is not None
        queue.tell(self._database, job.id, self.name, *follower.fresh())
        conclude(self._database, self._store, job, self.name, status, running.error)
