"""Workers are killed, jobs are paused and cancelled: none is lost, none is run twice. By hand: `-m soak`."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from tests.integration.service import ALIAS, Service, chats, jsonl

pytestmark = pytest.mark.soak

SECONDS = 5.0
"""What cancel and pause may take to end a job's processes."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, talking_llama: Path) -> Iterator[Service]:
    made = Service(tmp_path_factory.mktemp("service"), talking_llama, {"TUNEBOOK_GATEWAY__LEASE_S": "4"})
    with made.running("gateway"):
        made.start("one", "worker")
        made.start("two", "worker")
        yield made


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=service.base_url, api_key=service.key("acme"), max_retries=0) as made:
        yield made


def create(client: openai.OpenAI, n_epochs: int) -> str:
    file = client.files.create(file=("colours.jsonl", jsonl(chats(20))), purpose="fine-tune")
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": n_epochs}}}
    return client.fine_tuning.jobs.create(training_file=file.id, model=ALIAS, method=method, seed=1).id  # type: ignore[arg-type]


def until(seen: Callable[[], Any], seconds: float = 180.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := seen()):
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.1)
    return found


def steps(client: openai.OpenAI, job: str) -> list[int]:
    """Of metrics events, in their order."""
    events = list(client.fine_tuning.jobs.list_events(job, limit=100))[::-1]
    return [event.data["step"] for event in events if event.type == "metrics"]  # type: ignore[index]


def job_processes(job: str) -> list[psutil.Process]:
    """Processes of a job's run: that of its spec, and those of its stages."""
    found = [
        each
        for each in psutil.process_iter(["cmdline"])
        if any(job in part for part in each.info["cmdline"] or ()) and each.status() != "zombie"
    ]
    return [*found, *(child for each in found for child in each.children(recursive=True))]


def owner_of(service: Service, job: str) -> str:
    """The worker that runs a job."""
    (process, *_) = job_processes(job)
    parent = process.ppid()
    return next(name for name in ("one", "two") if service.processes[name].pid == parent)


def test_a_killed_workers_job_is_taken_up_from_its_checkpoint(
    service: Service, client: openai.OpenAI
) -> None:
    job = create(client, n_epochs=6)
    until(lambda: len(steps(client, job)) >= 12)
    lost = owner_of(service, job)
    os.kill(service.processes[lost].pid, signal.SIGKILL)
    until(lambda: client.fine_tuning.jobs.retrieve(job).status not in ("queued", "running"))

    done = client.fine_tuning.jobs.retrieve(job)
    assert done.status == "succeeded", done.error
    seen = steps(client, job)
    assert seen == list(range(1, 151))
    messages = [event.message for event in client.fine_tuning.jobs.list_events(job, limit=100)]
    assert messages.count("Fine-tuning job started") == 1
    assert messages.count("The job is taken up again from its last checkpoint") == 1
    assert messages.count("The job has successfully completed") == 1
    (metrics,) = (service.folder / "runs").glob(f"{job.replace('-', '_')}/stages/train-*/metrics.jsonl")
    resumed = [json.loads(line).get("resumed_at_step", 0) for line in metrics.read_text().splitlines()]
    assert max(resumed) >= 10
    assert len([model for model in client.models.list() if model.id.startswith("ft:")]) == 1


def test_pause_resume_and_cancel_take_seconds(service: Service, client: openai.OpenAI) -> None:
    job = create(client, n_epochs=50)
    until(lambda: job_processes(job))
    assert client.fine_tuning.jobs.pause(job).status == "paused"
    until(lambda: not job_processes(job), SECONDS)
    time.sleep(2)
    assert client.fine_tuning.jobs.retrieve(job).status == "paused"
    with pytest.raises(openai.BadRequestError, match="is paused: it cannot be paused"):
        client.fine_tuning.jobs.pause(job)

    assert client.fine_tuning.jobs.resume(job).status == "queued"
    until(lambda: len(steps(client, job)) >= 2)
    running = client.fine_tuning.jobs.retrieve(job)
    assert running.status == "running"
    assert running.fine_tuned_model is None
    assert running.finished_at is None
    assert client.fine_tuning.jobs.cancel(job).status == "cancelled"
    until(lambda: not job_processes(job), SECONDS)
    with pytest.raises(openai.BadRequestError, match="is cancelled: it cannot be cancelled"):
        client.fine_tuning.jobs.cancel(job)
    last, *_ = client.fine_tuning.jobs.list_events(job)
    assert last.message == "The job was cancelled"
    assert client.fine_tuning.jobs.retrieve(job).finished_at is not None
