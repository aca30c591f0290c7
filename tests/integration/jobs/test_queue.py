"""Leases: one worker a job, whatever happens to workers; on either database."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import select

from tunebook_jobs.database import Database
from tunebook_jobs.events import NewEvent
from tunebook_jobs.queue import MAX_ATTEMPTS, JobQueue, Made
from tunebook_jobs.tables import Event, File, Job


def add_job(database: Database, id: str, **more: Any) -> None:
    job = Job(
        id=id,
        project="acme",
        created_at=1,
        status="queued",
        model="m",
        base_model={},
        training_file="file-a",
        method={"type": "supervised"},
        hyperparameters={},
        seed=0,
        result_files=[],
    )
    for name, value in more.items():
        setattr(job, name, value)
    with database.write() as session:
        session.add(job)


def job(database: Database, id: str = "ftjob-a") -> Job:
    with database.read() as session:
        return session.scalars(select(Job).where(Job.id == id)).one()


def messages(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.scalars(select(Event.message).order_by(Event.number)))


def made(name: str = "ft:m:acme::a") -> Made:
    file = File(
        id=f"file-{name[-1]}r",
        project="acme",
        filename="step_metrics.csv",
        purpose="fine-tune-results",
        num_bytes=1,
        created_at=1,
    )
    return Made(name, "ftjob_a@1", 100, file, 3, {"step": 3})


def run_out(database: Database) -> None:
    """As if the worker had not been heard of for the time of its lease."""
    with database.write() as session:
        session.scalars(select(Job)).one().lease_until = time.time() - 0.01


def queues(database: Database, *owners: str, lease_s: float = 15.0) -> list[JobQueue]:
    return [JobQueue(database, owner, lease_s) for owner in owners]


def test_jobs_are_taken_oldest_first_each_by_one(database: Database) -> None:
    for id in ("ftjob-a", "ftjob-b"):
        add_job(database, id)
    one, two, three = queues(database, "one", "two", "three")
    taken = [queue.take() for queue in (one, two, three)]
    assert [each.id if each else None for each in taken] == ["ftjob-a", "ftjob-b", None]
    assert messages(database) == ["Fine-tuning job started"] * 2


def test_of_many_that_race_for_a_job_one_gets_it(database: Database) -> None:
    for round_ in range(5):
        add_job(database, f"ftjob-{round_}")
        racing = queues(database, *(f"worker {number}" for number in range(8)))
        with ThreadPoolExecutor(8) as pool:
            taken = [each for each in pool.map(JobQueue.take, racing) if each]
        assert [each.id for each in taken] == [f"ftjob-{round_}"]
        assert job(database, f"ftjob-{round_}").attempts == 1


def test_a_lease_that_ran_out_is_anothers_and_the_first_changes_nothing_more(database: Database) -> None:
    add_job(database, "ftjob-a")
    slow, fresh = queues(database, "slow", "fresh")
    assert slow.take() is not None
    assert fresh.take() is None
    run_out(database)
    assert fresh.take() is not None
    assert not slow.tell("ftjob-a", NewEvent("Step 1", step=1))
    slow.fail("ftjob-a", {"code": "server_error", "message": "m", "param": None})
    slow.release("ftjob-a")
    assert not slow.succeed("ftjob-a", made())
    assert (job(database).status, job(database).lease_owner) == ("running", "fresh")
    assert fresh.succeed("ftjob-a", made())
    assert not fresh.succeed("ftjob-a", made("ft:m:acme::b"))
    done = job(database)
    assert (done.status, done.fine_tuned_model, done.result_files) == (
        "succeeded",
        "ft:m:acme::a",
        ["file-ar"],
    )
    assert messages(database) == [
        "Fine-tuning job started",
        "The job is taken up again from its last checkpoint",
        "New fine-tuned model created: ft:m:acme::a",
        "The job has successfully completed",
    ]


def test_a_heartbeat_keeps_the_lease(database: Database) -> None:
    add_job(database, "ftjob-a")
    mine, other = queues(database, "mine", "other")
    mine.take()
    run_out(database)
    assert mine.tell("ftjob-a")
    assert other.take() is None


@pytest.mark.parametrize("status", ["cancelled", "paused"])
def test_a_job_that_is_not_to_be_run_any_more_is_let_go(database: Database, status: str) -> None:
    add_job(database, "ftjob-a")
    (mine,) = queues(database, "mine")
    mine.take()
    with database.write() as session:
        session.scalars(select(Job)).one().status = status
    assert not mine.tell("ftjob-a", NewEvent("Step 1", step=1))
    assert not mine.succeed("ftjob-a", made())
    mine.release("ftjob-a")
    assert mine.take() is None
    assert job(database).status == status


def test_a_resumed_job_waits_until_its_former_worker_let_it_go(database: Database) -> None:
    add_job(database, "ftjob-a")
    mine, other = queues(database, "mine", "other")
    mine.take()
    with database.write() as session:
        session.scalars(select(Job)).one().status = "queued"  # paused and resumed between two heartbeats
    assert other.take() is None
    assert not mine.tell("ftjob-a")
    mine.release("ftjob-a")
    assert other.take() is not None


def test_a_step_is_told_once(database: Database) -> None:
    add_job(database, "ftjob-a")
    (mine,) = queues(database, "mine")
    mine.take()
    told = [NewEvent(f"Step {step}", step=step) for step in (1, 2, 1)]
    assert mine.tell("ftjob-a", *told)
    assert mine.tell("ftjob-a", NewEvent("Step 2", step=2), NewEvent("Step 3", step=3))
    assert messages(database)[1:] == ["Step 1", "Step 2", "Step 3"]


def test_a_job_that_goes_on_may_lose_any_number_of_workers(database: Database) -> None:
    add_job(database, "ftjob-a")
    (mine,) = queues(database, "mine")
    for step in range(1, MAX_ATTEMPTS + 5):
        assert mine.take() is not None
        assert mine.tell("ftjob-a", NewEvent(f"Step {step}", step=step))
        run_out(database)
    for _ in range(MAX_ATTEMPTS):
        assert mine.take() is not None
        assert mine.tell("ftjob-a", NewEvent("Step 1", step=1))  # told before
        run_out(database)
    assert mine.take() is None
    assert job(database).status == "failed"


def test_a_job_that_loses_every_worker_ends(database: Database) -> None:
    add_job(database, "ftjob-a", status="running", attempts=MAX_ATTEMPTS, lease_until=1.0)
    (mine,) = queues(database, "mine")
    assert mine.take() is None
    ended = job(database)
    assert ended.status == "failed"
    assert ended.error is not None
    assert "taken up 10 times" in ended.error["message"]
