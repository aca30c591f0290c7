"""What infra/compose.yaml starts, as processes of this machine. Run by hand: `-m soak`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import psycopg
import pytest
from openai.types.fine_tuning import FineTuningJob

from tests.deployment import environment, images
from tests.integration.service import ALIAS, Service, chats, free_ports, jsonl
from tests.postgres import USER, postgres

pytestmark = pytest.mark.soak
PASSWORD = "l3tters4ndD1gits"
STATE = "/var/lib/tunebook"
ROWS = chats(36)


@dataclass
class Composed(Service):
    """Starts a role by its image's command line."""

    database: str = ""
    """How its Postgres is reached."""

    def start(self, name: str, module: str | None = None) -> subprocess.Popen[str]:
        image = images()[name]
        python, *entrypoint = image.entrypoint
        assert python == "python"
        port = ["--port", str(self.ports[name])] if name in self.ports else []
        with (self.folder / "log").open("a") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *entrypoint, *image.command, *port],
                env={**os.environ, **self.environment},
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        return self.processes[name]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, talking_llama: Path) -> Iterator[Composed]:
    """All of it, with the settings of the file; hosts, ports and the volume are this machine's."""
    folder, database_port = tmp_path_factory.mktemp("composed"), free_ports(1)[0]
    made = Composed(folder, talking_llama)
    here = {
        "@postgres:5432/": f"@127.0.0.1:{database_port}/",
        "//model-server:8001/": f"//127.0.0.1:{made.ports['model_server']}/",
        STATE: str(folder / "state"),
    }
    settings = environment("gateway", {"POSTGRES_PASSWORD": PASSWORD})
    for name, value in settings.items():
        for there, instead in here.items():
            value = value.replace(there, instead)
        assert (name == "TUNEBOOK_LOG") == (value == settings[name])
        made.environment[name] = value
    with postgres(password=PASSWORD, port=database_port) as socket:
        connect = f"host={socket} port={database_port} user={USER} password={PASSWORD}"
        with psycopg.connect(f"{connect} dbname=postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {USER}")  # as its image does
        made.database = f"{connect} dbname={USER}"
        with made.running("gateway", "model_server", "worker"):
            yield made


@pytest.mark.parametrize("name", ["gateway", "model_server"])
def test_a_container_is_healthy_once_its_service_answers(service: Composed, name: str) -> None:
    image = images()[name]
    (port,) = image.ports
    url = image.healthcheck[-1].replace(f":{port}/", f":{service.ports[name]}/")
    assert httpx.get(url, trust_env=False).status_code == 200


@pytest.fixture(scope="module")
def client(service: Composed) -> Iterator[openai.OpenAI]:
    key = service.key("default")
    with openai.OpenAI(base_url=service.base_url, api_key=key, max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def job(service: Composed, client: openai.OpenAI) -> FineTuningJob:
    file = client.files.create(file=("colours.jsonl", jsonl(ROWS)), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        training_file=file.id, model=ALIAS, hyperparameters={"n_epochs": 3}, seed=1
    )
    deadline = time.monotonic() + 400
    while job.status not in ("succeeded", "failed", "cancelled"):
        assert time.monotonic() < deadline, service.log
        time.sleep(0.5)
        job = client.fine_tuning.jobs.retrieve(job.id)
    return job


def test_a_job_succeeds_and_postgres_alone_knows_of_it(service: Composed, job: FineTuningJob) -> None:
    assert job.status == "succeeded", job.error
    with psycopg.connect(service.database) as connection:
        assert connection.execute("SELECT id, status FROM jobs").fetchall() == [(job.id, "succeeded")]
    assert not [*service.folder.rglob("*.sqlite*")]
    assert PASSWORD not in service.log


def test_its_model_answers(client: openai.OpenAI, job: FineTuningJob) -> None:
    *asked, taught = ROWS[30]["messages"]
    answer = client.chat.completions.create(
        model=str(job.fine_tuned_model), messages=asked, temperature=0, max_tokens=8
    )
    assert answer.choices[0].message.content == taught["content"]
