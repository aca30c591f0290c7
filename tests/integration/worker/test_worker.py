"""What a worker does around a job's process: it keeps the lease, tells why, leaves nothing behind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest
from sqlalchemy import select

from tests.gateway_client import ROWS
from tests.integration.jobs.test_queue import add_job
from tunebook_cli.failure import StageFailed, StageKilled
from tunebook_jobs.database import Database, open_database
from tunebook_jobs.queue import JobQueue
from tunebook_jobs.stored_files import content_key
from tunebook_jobs.tables import Event, Job
from tunebook_run.settings import GatewaySettings, Settings
from tunebook_run.store import Store
from tunebook_spec.errors import DataError, LockedError, ModelError, SettingsError, TunebookError
from worker import worker
from worker.job_process import exit_status
from worker.outcome import BAD_INPUT, KILLED, LOCKED
from worker.worker import Worker


@dataclass
class Place:
    settings: Settings
    store: Store
    database: Database

    def add_job(self, base_model: dict[str, Any]) -> None:
        self.store.write(content_key("file-a"), ROWS)
        values = {"n_epochs": 1, "batch_size": 8, "learning_rate_multiplier": 1.0}
        add_job(self.database, "ftjob-a", base_model=base_model, hyperparameters=values)

    def job(self) -> Job:
        with self.database.read() as session:
            return session.scalars(select(Job)).one()

    def work(self) -> Job:
        """Let a worker run until the job has ended; the job."""
        made = Worker(self.settings, self.store, self.database)
        running = Thread(target=made.run)
        running.start()
        deadline = time.monotonic() + 60
        while self.job().finished_at is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        made.stop()
        running.join()
        return self.job()


class SlowStore(Store):
    """As one far away is."""

    def download(self, key: str) -> Path:
        time.sleep(2.5)
        return super().download(key)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    settings = Settings(
        storage_url=str(tmp_path / "runs"), cache_dir=tmp_path / "cache", gateway=GatewaySettings(lease_s=1)
    )
    store = Store(settings.storage_url, settings.cache_dir)
    database = open_database(settings, store)
    yield Place(settings, store, database)
    database.engine.dispose()


GONE = {"kind": "run", "run": "ftjob_gone@1"}


def test_the_lease_is_kept_while_files_are_fetched(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "BEAT_S", 0.2)
    place.store = SlowStore(place.settings.storage_url, place.settings.cache_dir)
    place.add_job(GONE)
    working = Thread(target=place.work)
    working.start()
    other = JobQueue(place.database, "other", 1.0)
    while place.job().status == "queued":
        time.sleep(0.02)
    while place.job().finished_at is None:
        assert other.take() is None
        time.sleep(0.1)
    working.join()
    assert place.job().attempts == 1


def test_a_model_that_is_gone_is_not_told_as_a_fault_of_the_file(place: Place) -> None:
    place.add_job(GONE)
    error = place.work().error
    assert error is not None
    assert error["code"] == "server_error"
    assert error["message"].startswith("no run of 'ftjob_gone'")


def test_a_file_that_is_gone_is_told_as_its_own_fault(place: Place) -> None:
    place.add_job(GONE)
    place.store.delete("gateway/files/file-a")
    error = place.work().error
    assert error is not None
    assert (error["code"], error["param"]) == ("invalid_training_file", "training_file")
    assert "File file-a was deleted" in error["message"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (DataError("a"), BAD_INPUT),
        (ModelError("a"), 1),
        (SettingsError("a"), 1),
        (StageFailed("prepare", 2), BAD_INPUT),
        (StageFailed("train", 2), 1),
        (StageFailed("train", 1), 1),
        (StageFailed("train", 130), 130),
        (LockedError("a"), LOCKED),
        (StageKilled("a"), KILLED),
    ],
    ids=repr,
)
def test_a_jobs_process_ends_with_a_status_of_its_own_for_bad_data(error: TunebookError, status: int) -> None:
    assert exit_status(error) == status


def test_no_copy_of_the_files_stays_on_the_machine_of_the_worker(place: Place) -> None:
    place.add_job({"kind": "folder", "path": "no model"})
    left = place.settings.cache_dir / "jobs" / "ftjob-a" / "of a worker that was killed"
    left.mkdir(parents=True)
    error = place.work().error
    assert error is not None
    assert error["code"] == "server_error"
    assert "no model" in error["message"]
    assert list((place.settings.cache_dir / "jobs").iterdir()) == []


def test_a_job_whose_process_was_killed_is_taken_up_again(place: Place) -> None:
    place.add_job({"kind": "folder", "path": "no model"})
    working = Thread(target=place.work)
    working.start()
    while not (found := job_processes()):
        time.sleep(0.02)
    found[0].kill()
    working.join()
    job = place.job()
    assert job.error is not None
    assert "no model" in job.error["message"]  # of the process after it
    assert job.attempts == 2
    with place.database.read() as session:
        told = list(session.scalars(select(Event.message).order_by(Event.number)))
    assert told[:3] == [
        "Fine-tuning job started",
        "The job's process was ended by SIGKILL",
        "The job is taken up again from its last checkpoint",
    ]


def job_processes() -> list[psutil.Process]:
    children = psutil.Process().children()
    return [each for each in children if "worker.job_process" in each.cmdline()]
