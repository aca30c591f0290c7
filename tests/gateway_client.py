"""The gateway in this process, and its clients; no worker and no model server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import SecretStr
from starlette.testclient import TestClient

from gateway.app import make_app
from gateway.state import State
from tunebook_jobs.ids import model_name, new_id
from tunebook_jobs.keys import create_key
from tunebook_jobs.queue import JobQueue, Made
from tunebook_jobs.tables import File, Job
from tunebook_run.settings import GatewaySettings, Settings

ALIAS = "gpt-4o-mini-2024-07-18"


@dataclass
class Project:
    """A project, and a client with its key."""

    name: str
    key: str
    client: TestClient

    def upload(self, content: bytes, name: str = "rows.jsonl", **form: str) -> dict[str, Any]:
        """The answer's body; the upload has to succeed."""
        answer = self.send(content, name, **form)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def send(self, content: bytes, name: str = "rows.jsonl", **form: str) -> Any:
        files = {"file": (name, content)}
        return self.client.post("/v1/files", files=files, data={"purpose": "fine-tune", **form})

    def create(self, training_file: str, /, **more: Any) -> Any:
        body = {"model": ALIAS, "training_file": training_file, **more}
        return self.client.post("/v1/fine_tuning/jobs", json=body)


@dataclass
class Gateway:
    app: FastAPI
    settings: Settings

    @property
    def state(self) -> State:
        state: State = self.app.state.gateway
        return state

    def project(self, name: str) -> Project:
        key = create_key(self.state.database, name)
        client = TestClient(
            self.app, headers={"Authorization": f"Bearer {key}"}, raise_server_exceptions=False
        )
        return Project(name, key, client)

    def queue(self, owner: str, lease_s: float = 15.0) -> JobQueue:
        return JobQueue(self.state.database, owner, lease_s)


@contextmanager
def open_gateway(
    folder: Path,
    database_url: str | None = None,
    model_server_url: str = "http://127.0.0.1:9/v1",
    storage_url: str | None = None,
) -> Iterator[Gateway]:
    """State is in SQLite and in the folder where no URLs are given; nothing answers as the model server."""
    settings = Settings(
        storage_url=storage_url or str(folder / "runs"),
        cache_dir=folder / "cache",
        gateway=GatewaySettings(
            database_url=None if database_url is None else SecretStr(database_url),
            requests_per_minute=100_000,
            model_server_url=model_server_url,
        ),
    )
    made = Gateway(make_app(settings), settings)
    try:
        yield made
    finally:
        made.state.database.engine.dispose()


def row(number: int = 0) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": f"What is {number}?"},
            {"role": "assistant", "content": f"It is {number}."},
        ]
    }


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(each) + "\n" for each in rows).encode()


ROWS = lines(*map(row, range(10)))


def finish(gateway: Gateway, job: str) -> str:
    """End a queued job as a worker does that has trained its model; the model's name."""
    queue = gateway.queue("worker")
    made = made_by(take(queue, job))
    assert queue.succeed(job, made)
    return made.model


def take(queue: JobQueue, job: str) -> Job:
    """Take up a job, past those that other tests have left."""
    taken = queue.take()
    while taken is not None and taken.id != job:
        taken = queue.take()
    assert taken is not None
    return taken


def made_by(taken: Job) -> Made:
    """What a worker has made that has trained a job's model."""
    file = File(
        id=new_id("file-"),
        project=taken.project,
        filename="step_metrics.csv",
        purpose="fine-tune-results",
        num_bytes=0,
        created_at=0,
    )
    name = model_name(ALIAS, taken.project, taken.suffix, taken.id)
    return Made(name, "ftjob_a@1", 100, file, 3, {"step": 3, "train_loss": 0.5})
