"""Parts of the service are killed at random moments: nothing that a client was promised is lost. `-m soak`.

`KILLS_SEED` repeats a campaign; `-o log_cli=true --log-cli-level=INFO` shows its figures.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from tests.integration.service import ALIAS, Service, chats, jsonl

pytestmark = pytest.mark.soak
logger = logging.getLogger(__name__)

PARTS = ("gateway", "worker", "model_server")
NUM_KILLS = 20
PAUSE_S = (2.0, 10.0)
"""Between two kills."""
NUM_JOBS = 4
EPOCHS = 4
SETTINGS = {
    "TUNEBOOK_GATEWAY__LEASE_S": "4",
    "TUNEBOOK_GATEWAY__CHECKPOINT_EVERY_STEPS": "5",
    "TUNEBOOK_GATEWAY__REQUESTS_PER_MINUTE": "1000000",
}


@pytest.mark.timeout(1800)
def test_nothing_is_lost_or_done_twice_however_parts_are_killed(tmp_path: Path, talking_llama: Path) -> None:
    seed = int(os.environ.get("KILLS_SEED", time.time_ns() % 10**6))
    logger.info("KILLS_SEED=%d", seed)
    service = Service(tmp_path / "service", talking_llama, SETTINGS)
    with service.served() as key, ThreadPoolExecutor(4) as pool:
        client = openai.OpenAI(base_url=service.base_url, api_key=key, max_retries=30)
        is_over = threading.Event()
        files = pool.submit(keep_uploading, client, is_over)
        said = pool.submit(keep_asking, client, is_over)
        try:
            with one_process_a_job():
                ids = create_jobs(client)
                killed = kill_at_random(service, random.Random(seed))
                wait_for_all(client, ids)
        finally:
            is_over.set()
        contents, asked = files.result(), said.result()
        # A request whose answer was lost is made again: what it had made the first time is there too.
        made = [job.id for job in client.fine_tuning.jobs.list(limit=100)]
        assert set(ids) <= set(made)
        wait_for_all(client, made)
        attempts = sum(check_job(service, client, job) for job in made)
        for id, content in contents.items():
            assert client.files.content(id).content == content
        listed = [file for file in client.files.list() if file.purpose == "fine-tune"]
        assert set(contents) <= {file.id for file in listed}
        assert asked["answered"] > 0
        assert set(asked) == {"answered"}, asked
    assert left_over(service) == []
    logger.info("killed: %s; taken up again: %d; chats: %s", dict(killed), attempts, dict(asked))
    logger.info(
        "jobs: %d, of %d asked for; files: %d, of %d", len(made), len(ids), len(listed), len(contents)
    )


def keep_uploading(client: openai.OpenAI, is_over: threading.Event) -> dict[str, bytes]:
    """Contents by the ids that the client was told."""
    kept: dict[str, bytes] = {}
    while not is_over.wait(0.5):
        content = jsonl(chats(2)[: 10 + len(kept) % 10])
        kept[client.files.create(file=("rows.jsonl", content), purpose="fine-tune").id] = content
    return kept


def keep_asking(client: openai.OpenAI, is_over: threading.Event) -> Counter[str]:
    """How chats went; the client asks again by itself for long enough."""
    told: Counter[str] = Counter()
    while not is_over.wait(0.5):
        answer = client.chat.completions.create(
            model=ALIAS, messages=chats(1)[0]["messages"][:2], temperature=0, max_tokens=4
        )
        said = answer.choices[0].message.content or ""
        told["answered" if said.startswith("Yes") else f"wrong: {said!r}"] += 1
    return told


def create_jobs(client: openai.OpenAI) -> list[str]:
    file = client.files.create(file=("colours.jsonl", jsonl(chats(20))), purpose="fine-tune").id
    hyperparameters: Any = {"n_epochs": EPOCHS}
    return [
        client.fine_tuning.jobs.create(
            model=ALIAS, training_file=file, hyperparameters=hyperparameters, seed=number
        ).id
        for number in range(NUM_JOBS)
    ]


def kill_at_random(service: Service, draws: random.Random) -> Counter[str]:
    killed: Counter[str] = Counter()
    while sum(killed.values()) < NUM_KILLS:
        time.sleep(draws.uniform(*PAUSE_S))
        name = draws.choice(PARTS)
        if part := service.part(name):
            part.kill()
            killed[name] += 1
    return killed


@contextmanager
def one_process_a_job() -> Iterator[None]:
    """Raises where a job is seen to be run by two at once."""
    is_over = threading.Event()
    seen_twice: list[str] = []

    def watch() -> None:
        while not is_over.wait(1.0):
            running = Counter(Path(spec).parts[-3] for spec in job_processes())
            seen_twice.extend(job for job, count in running.items() if count > 1)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield
    finally:
        is_over.set()
        watching.join()
    assert not seen_twice


def job_processes() -> list[str]:
    """The specs that are run, one entry a process; `.../jobs/<id>/<folder of a worker>/spec.yaml`."""
    found = []
    for each in psutil.process_iter(["cmdline", "status"]):
        command = each.info["cmdline"] or []
        if command[1:3] == ["-m", "worker.job_process"] and each.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(command[3])
    return found


def wait_for_all(client: openai.OpenAI, jobs: list[str]) -> None:
    deadline = time.monotonic() + 900
    while any(client.fine_tuning.jobs.retrieve(job).finished_at is None for job in jobs):
        assert time.monotonic() < deadline, "the jobs never end"
        time.sleep(1)


def check_job(service: Service, client: openai.OpenAI, id: str) -> int:
    """How often it was taken up again; it has succeeded once, and told everything once and in order."""
    job = client.fine_tuning.jobs.retrieve(id)
    assert job.status == "succeeded", (job.id, job.error)
    events = list(client.fine_tuning.jobs.list_events(id, limit=100))[::-1]
    assert len({event.id for event in events}) == len(events)
    assert [event.created_at for event in events] == sorted(event.created_at for event in events)
    data: list[Any] = [event.data for event in events if event.type == "metrics"]
    assert [each["step"] for each in data] == list(range(1, data[0]["total_steps"] + 1))
    messages = [event.message for event in events if event.type == "message"]
    again = messages.count("The job is taken up again from its last checkpoint")
    assert messages[0].startswith(f"Created fine-tuning job: {id}")
    assert messages[-2:] == [
        f"New fine-tuned model created: {job.fine_tuned_model}",
        "The job has successfully completed",
    ]
    assert len(messages) == 6 + again
    assert len(client.fine_tuning.jobs.checkpoints.list(id).data) == 1
    assert len(job.result_files) == 1
    assert client.files.content(job.result_files[0]).text.count("\n") == 1 + len(data)
    stages = service.folder / "runs" / id.replace("-", "_") / "stages"
    finished = Counter(path.parent.name.split("-")[0] for path in stages.glob("*/artifact.json"))
    assert finished == {"prepare": 1, "train": 1, "merge": 1}
    return again


def left_over(service: Service) -> list[str]:
    """Processes that outlive the service."""
    return within(10, lambda: [spec for spec in job_processes() if str(service.folder) in spec])


def within(seconds: float, found: Callable[[], list[str]]) -> list[str]:
    """What is still found after so long."""
    deadline = time.monotonic() + seconds
    while (left := found()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left
