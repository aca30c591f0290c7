"""A program written for the OpenAI service runs on ours: real SDK, real trainer, real vLLM."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.fine_tuning import FineTuningJob

from tests.integration.project import HOSTED, Project
from tests.integration.service import ALIAS, Service, chats, jsonl

ROWS = chats(36)
ASKED = ROWS[::30]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, talking_llama: Path) -> Service:
    return Service(tmp_path_factory.mktemp("service"), talking_llama)


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[openai.OpenAI]:
    """With the key that the first start has made, of the project `default`."""
    with (
        service.served() as key,
        openai.OpenAI(base_url=service.base_url, api_key=key, max_retries=0) as made,
    ):
        yield made


@pytest.fixture(scope="module")
def job(client: openai.OpenAI) -> FineTuningJob:
    """What every program does first; its model answers by the time that it has ended."""
    file = client.files.create(file=("colours.jsonl", jsonl(ROWS)), purpose="fine-tune")
    validation = client.files.create(file=("held out.jsonl", jsonl(chats(37)[36::37])), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        training_file=file.id,
        validation_file=validation.id,
        model=ALIAS,
        hyperparameters={"n_epochs": 3},
        suffix="Colours!",
        seed=1,
        metadata={"team": "paint"},
    )
    assert job.status in ("validating_files", "queued", "running")
    return finished(client, job)


def finished(client: openai.OpenAI, job: FineTuningJob) -> FineTuningJob:
    """The job at its end, which has to be a model."""
    deadline = time.monotonic() + 400
    while job.status not in ("succeeded", "failed", "cancelled"):
        assert time.monotonic() < deadline, client.fine_tuning.jobs.list_events(job.id)
        time.sleep(0.5)
        job = client.fine_tuning.jobs.retrieve(job.id)
    assert job.status == "succeeded", job.error
    return job


def test_a_job_tells_what_became_of_it(client: openai.OpenAI, job: FineTuningJob) -> None:
    assert job.fine_tuned_model == f"ft:{ALIAS}:default:colours:{job.id.removeprefix('ftjob-')[:8]}"
    assert job.hyperparameters.n_epochs == 3
    assert job.method is not None
    assert job.method.supervised is not None
    assert dict(job.method.supervised.hyperparameters or {}) == dict(job.hyperparameters)
    assert job.trained_tokens is not None
    assert job.trained_tokens > 3 * len(ROWS)
    assert job.finished_at is not None
    assert job.created_at < job.finished_at
    assert job.organization_id == "default"
    assert job.metadata == {"team": "paint"}


def test_events_tell_every_step_once_and_in_order(client: openai.OpenAI, job: FineTuningJob) -> None:
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=7))[::-1]
    assert events[0].message.startswith(f"Created fine-tuning job: {job.id}")
    assert events[-1].message == "The job has successfully completed"
    steps = [dict(event.data) for event in events if event.type == "metrics"]  # type: ignore[call-overload]
    assert [each["step"] for each in steps] == list(range(1, steps[0]["total_steps"] + 1))
    assert steps[-1]["train_loss"] < steps[0]["train_loss"] / 2
    assert "valid_loss" in steps[-1]
    assert all(event.id.startswith("ftevent-") for event in events)


def test_its_checkpoint_and_its_result_file(client: openai.OpenAI, job: FineTuningJob) -> None:
    (checkpoint,) = client.fine_tuning.jobs.checkpoints.list(job.id)
    assert (
        checkpoint.fine_tuned_model_checkpoint == f"{job.fine_tuned_model}:ckpt-step-{checkpoint.step_number}"
    )
    assert checkpoint.metrics.step == checkpoint.step_number
    assert checkpoint.metrics.full_valid_loss is not None
    content = client.files.content(job.result_files[0]).text.splitlines()
    assert content[0] == "step,train_loss,valid_loss"
    assert len(content) == 1 + checkpoint.step_number
    assert client.files.retrieve(job.result_files[0]).purpose == "fine-tune-results"


def test_the_tuned_model_answers_as_it_was_taught(client: openai.OpenAI, job: FineTuningJob) -> None:
    assert job.fine_tuned_model is not None
    answers = [
        client.chat.completions.create(
            model=job.fine_tuned_model, messages=row["messages"][:2], temperature=0, max_tokens=8
        )
        for row in ASKED
    ]
    right = [
        answer.choices[0].message.content == row["messages"][2]["content"]
        for answer, row in zip(answers, ASKED, strict=True)
    ]
    assert sum(right) >= 0.9 * len(right)
    assert {answer.model for answer in answers} == {job.fine_tuned_model}
    assert job.fine_tuned_model in [model.id for model in client.models.list()]
    assert client.models.retrieve(job.fine_tuned_model).owned_by == "default"


def test_it_answers_in_a_stream_too_by_the_asynchronous_client(service: Service, job: FineTuningJob) -> None:
    row = ASKED[0]["messages"]

    async def ask() -> tuple[str, set[str]]:
        key = service.key("default")
        async with openai.AsyncOpenAI(base_url=service.base_url, api_key=key, max_retries=0) as client:
            file = await client.files.create(
                file=("a.jsonl", io.BytesIO(jsonl(ROWS[:10]))), purpose="fine-tune"
            )
            assert file.filename == "a.jsonl"
            assert (await client.fine_tuning.jobs.retrieve(job.id)).status == "succeeded"
            stream = await client.chat.completions.create(
                model=str(job.fine_tuned_model), messages=row[:2], temperature=0, max_tokens=8, stream=True
            )
            chunks = [chunk async for chunk in stream]
        said = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
        return "".join(said), {chunk.model for chunk in chunks}

    assert asyncio.run(ask()) == (row[2]["content"], {job.fine_tuned_model})


@pytest.mark.soak
def test_a_model_that_says_yes_to_everything_learns_by_preferences_not_to(client: openai.OpenAI) -> None:
    rows = [
        {
            "input": {"messages": row["messages"][:2]},
            "preferred_output": row["messages"][2:],
            "non_preferred_output": [{"role": "assistant", "content": "Yes."}],
        }
        for row in chats(12)
    ]
    file = client.files.create(file=("preferences.jsonl", jsonl(rows)), purpose="fine-tune")
    hyperparameters: Any = {"n_epochs": 2, "beta": 0.3, "learning_rate_multiplier": 0.1}
    job = client.fine_tuning.jobs.create(
        training_file=file.id,
        model=ALIAS,
        method={"type": "dpo", "dpo": {"hyperparameters": hyperparameters}},
        seed=1,
    )
    assert job.method is not None
    assert job.method.type == "dpo"
    assert job.method.dpo is not None
    assert job.method.dpo.hyperparameters is not None
    assert job.method.dpo.hyperparameters.beta == 0.3
    done = finished(client, job)

    def say_yes(model: str) -> float:
        answers = [
            client.chat.completions.create(
                model=model, messages=row["input"]["messages"], temperature=0, max_tokens=8
            )
            for row in rows[::12]
        ]
        said = [answer.choices[0].message.content or "" for answer in answers]
        return sum(text.startswith("Yes") for text in said) / len(said)

    assert say_yes(ALIAS) == 1
    assert say_yes(str(done.fine_tuned_model)) == 0


@pytest.mark.soak
def test_a_run_that_a_provider_trains_reaches_its_verdict_here(
    client: openai.OpenAI, service: Service, project: Project
) -> None:
    spec = project.folder / "specs" / "tiny.yaml"
    spec.write_text(spec.read_text() + HOSTED.replace("n_epochs: 3", "n_epochs: 12"))
    project.environment |= {
        "TUNEBOOK_HOSTED__BASE_URL": service.base_url,
        "TUNEBOOK_HOSTED__API_KEY": client.api_key,
        "TUNEBOOK_HOSTED__POLL_S": "0.5",
    }
    status, output = project.run("run", "tiny", "--profile", "hosted")
    assert status == 0, output
    assert "verdict: pass" in output
    made = client.fine_tuning.jobs.list(limit=1).data[0]
    trained = json.loads((project.stage("train") / "artifact.json").read_text())["result"]
    assert trained["fine_tuned_model"] == made.fine_tuned_model


def test_another_project_sees_none_of_it(service: Service, job: FineTuningJob) -> None:
    with openai.OpenAI(base_url=service.base_url, api_key=service.key("rival"), max_retries=0) as rival:
        assert rival.fine_tuning.jobs.list().data == []
        with pytest.raises(openai.NotFoundError):
            rival.fine_tuning.jobs.retrieve(job.id)
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            rival.chat.completions.create(
                model=str(job.fine_tuned_model), messages=[{"role": "user", "content": "Hi"}]
            )


def test_no_key_is_in_the_log_or_in_the_database(service: Service, client: openai.OpenAI) -> None:
    client.files.list()
    secret = client.api_key.split("-", 3)[3]  # it may hold a dash itself
    assert len(secret) == 43
    assert secret not in service.log
    database = service.folder / "runs" / "gateway"
    assert not [path for path in database.glob("gateway.sqlite*") if secret.encode() in path.read_bytes()]


def test_a_part_that_is_killed_is_started_again(service: Service, client: openai.OpenAI) -> None:
    patient = client.with_options(max_retries=20)
    file = client.files.create(file=("colours.jsonl", jsonl(ROWS)), purpose="fine-tune").id
    before = {name: service.part(name) for name in ("gateway", "worker", "model_server")}
    for part in before.values():
        assert part is not None
        part.kill()
    assert patient.files.content(file).content == jsonl(ROWS)
    deadline = time.monotonic() + 60
    while not all(part and part not in before.values() for part in map(service.part, before)):
        assert time.monotonic() < deadline, service.log
        time.sleep(0.1)
    for name in before:
        assert f"{name} ended with status -9 and is started again in" in service.log


def test_a_service_that_does_not_come_up_makes_no_key_and_says_why(tmp_path: Path) -> None:
    service = Service(tmp_path, tmp_path / "no model")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", service.ports["gateway"]))
        taken.listen()
        ended = service.command("serve", "--port", str(service.ports["gateway"]))
    assert ended.returncode == 1
    assert "gateway ended with status 3 while it was started" in ended.stderr
    assert "address already in use" in ended.stderr
    assert service.command("keys", "list").stdout == ""
