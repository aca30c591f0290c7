"""The routes as the `openai` package uses them: lists, cursors, filters, defaults, deletion."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from tests.gateway_client import ALIAS, ROWS, Gateway, Project, finish, lines, made_by, row, take
from tests.integration.gateway.conftest import ON_ALL_DATABASES
from tunebook_jobs.events import NewEvent
from tunebook_jobs.stored_files import content_key, file_folder
from tunebook_jobs.tables import File

pytestmark = ON_ALL_DATABASES


@pytest.fixture
def client(gateway: Gateway, acme: Project) -> Iterator[openai.OpenAI]:
    url, transport = "http://testserver/v1", TestClient(gateway.app)
    with openai.OpenAI(base_url=url, api_key=acme.key, max_retries=0, http_client=transport) as made:
        yield made


@pytest.fixture
def file(client: openai.OpenAI) -> str:
    return client.files.create(file=("rows.jsonl", ROWS), purpose="fine-tune").id


def test_a_file_comes_back_as_it_was_sent(client: openai.OpenAI, file: str) -> None:
    assert client.files.content(file).content == ROWS
    shown = client.files.retrieve(file)
    assert (shown.bytes, shown.filename, shown.purpose) == (len(ROWS), "rows.jsonl", "fine-tune")
    assert client.files.delete(file).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.content(file)
    with pytest.raises(openai.NotFoundError):
        client.files.delete(file)


def test_a_file_whose_content_is_just_being_deleted_is_not_there(
    gateway: Gateway, client: openai.OpenAI, file: str
) -> None:
    gateway.state.store.delete(file_folder(file))
    with pytest.raises(openai.NotFoundError):
        client.files.content(file)


def test_files_are_listed_by_page_order_and_purpose(client: openai.OpenAI) -> None:
    made = [client.files.create(file=(f"{n}.txt", b"a"), purpose="user_data").id for n in range(5)]
    other = client.files.create(file=("a.txt", b"a"), purpose="batch").id
    assert [each.id for each in client.files.list(limit=2)] == [other, *made[::-1]]
    assert [each.id for each in client.files.list(limit=2, order="asc")] == [*made, other]
    assert [each.id for each in client.files.list(limit=2, purpose="batch")] == [other]
    first = client.files.list(limit=2)
    assert first.has_more
    assert not client.files.list(limit=2, after=made[1]).has_more


def expire(gateway: Gateway, *files: str) -> None:
    with gateway.state.database.write() as session:
        session.execute(update(File).where(File.id.in_(files)).values(expires_at=int(time.time()) - 1))


def test_what_has_expired_is_deleted_once_no_job_needs_it(
    gateway: Gateway, client: openai.OpenAI, acme: Project
) -> None:
    unused, training, validation = (acme.upload(ROWS)["id"] for _ in range(3))
    create = client.fine_tuning.jobs.create
    job = create(model=ALIAS, training_file=training, validation_file=validation).id
    expire(gateway, unused, training, validation)

    def kept() -> set[str]:
        acme.upload(ROWS)
        return {id for id in (unused, training, validation) if gateway.state.store.exists(content_key(id))}

    assert kept() == {training, validation}
    client.fine_tuning.jobs.cancel(job)
    assert kept() == set()


def test_a_file_that_has_expired_is_not_there(gateway: Gateway, client: openai.OpenAI) -> None:
    file = client.files.create(
        file=("a.jsonl", ROWS), purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert file.expires_at == file.created_at + 3600
    expire(gateway, file.id)
    assert client.files.list().data == []
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)
    with pytest.raises(openai.NotFoundError):
        client.fine_tuning.jobs.create(model=ALIAS, training_file=file.id)


def test_jobs_are_listed_by_page_newest_first(client: openai.OpenAI, file: str) -> None:
    made = [client.fine_tuning.jobs.create(model=ALIAS, training_file=file).id for _ in range(5)]
    assert [each.id for each in client.fine_tuning.jobs.list(limit=2)] == made[::-1]
    assert client.fine_tuning.jobs.list(limit=5).has_more is False
    assert client.fine_tuning.jobs.list(limit=4).has_more is True


LABELS: list[dict[str, str]] = [
    {"team": "paint"},
    {"team": "paint", "für": "Anna"},
    {'a"b': "1"},
    {"a.b": "null"},
    {"a\\b": "c"},
]


@pytest.mark.parametrize("wanted", [*LABELS, {"team": "ink"}, {"paint": "team"}], ids=str)
def test_jobs_are_found_by_metadata(client: openai.OpenAI, file: str, wanted: dict[str, str]) -> None:
    create = client.fine_tuning.jobs.create
    create(model=ALIAS, training_file=file)
    made = {create(model=ALIAS, training_file=file, metadata=each).id: each for each in LABELS}
    found = {each.id: each.metadata for each in client.fine_tuning.jobs.list(metadata=wanted)}
    assert found == {id: each for id, each in made.items() if wanted.items() <= each.items()}


def test_jobs_without_metadata_are_found(acme: Project, client: openai.OpenAI, file: str) -> None:
    create = client.fine_tuning.jobs.create
    plain = create(model=ALIAS, training_file=file).id
    create(model=ALIAS, training_file=file, metadata={"a": "b"})
    answer = acme.client.get("/v1/fine_tuning/jobs", params={"metadata": "null"}).json()
    assert [each["id"] for each in answer["data"]] == [plain]


def test_events_are_listed_by_page_newest_first(gateway: Gateway, client: openai.OpenAI, file: str) -> None:
    job = client.fine_tuning.jobs.create(model=ALIAS, training_file=file).id
    queue = gateway.queue("worker")
    take(queue, job)
    queue.tell(job, *(NewEvent(f"Step {step}", step=step, data={"step": step}) for step in range(1, 8)))
    told = [each.message for each in client.fine_tuning.jobs.list_events(job, limit=3)]
    assert told[::-1] == [
        f"Created fine-tuning job: {job} ({ALIAS} is smollm2-135m-instruct here)",
        f"Validating training file: {file}",
        "Files validated, moving job to queued state",
        "Fine-tuning job started",
        *(f"Step {step}" for step in range(1, 8)),
    ]


@pytest.mark.parametrize(("num_rows", "n_epochs", "batch_size"), [(10, 10, 8), (50, 3, 8), (5000, 3, 10)])
def test_auto_is_told_as_what_it_came_to(
    client: openai.OpenAI, num_rows: int, n_epochs: int, batch_size: int
) -> None:
    rows = lines(*map(row, range(num_rows)))
    file = client.files.create(file=("rows.jsonl", rows), purpose="fine-tune").id
    asked: Any = {"n_epochs": "auto", "learning_rate_multiplier": 2}
    job = client.fine_tuning.jobs.create(model=ALIAS, training_file=file, hyperparameters=asked)
    told = {"n_epochs": n_epochs, "batch_size": batch_size, "learning_rate_multiplier": 2.0}
    assert dict(job.hyperparameters) == told
    assert job.seed >= 0
    assert job.status == "queued"


def test_a_job_is_paused_resumed_and_cancelled_where_that_makes_sense(
    gateway: Gateway, client: openai.OpenAI, file: str
) -> None:
    jobs = client.fine_tuning.jobs
    job = jobs.create(model=ALIAS, training_file=file).id
    queue = gateway.queue("worker")
    take(queue, job)
    queue.tell(job, finish_at=2**31)
    assert jobs.retrieve(job).estimated_finish == 2**31
    with pytest.raises(openai.BadRequestError, match="is running: it cannot be resumed"):
        jobs.resume(job)
    paused = jobs.pause(job)
    assert (paused.status, paused.estimated_finish, paused.finished_at) == ("paused", None, None)
    assert not queue.tell(job)
    with pytest.raises(openai.BadRequestError, match="is paused: it cannot be paused"):
        jobs.pause(job)
    assert jobs.resume(job).status == "queued"
    cancelled = jobs.cancel(job)
    assert cancelled.status == "cancelled"
    assert cancelled.finished_at is not None
    for again, told in ((jobs.cancel, "cancelled"), (jobs.pause, "paused"), (jobs.resume, "resumed")):
        with pytest.raises(openai.BadRequestError, match=f"is cancelled: it cannot be {told}") as refused:
            again(job)
        assert refused.value.code == "invalid_job_status"
    told = [event.message for event in jobs.list_events(job)][:3]
    assert told == ["The job was cancelled", "The job was resumed", "The job was paused"]


def test_a_tuned_model_is_listed_and_deleted(gateway: Gateway, client: openai.OpenAI, file: str) -> None:
    job = client.fine_tuning.jobs.create(model=ALIAS, training_file=file).id
    model = finish(gateway, job)
    (checkpoint,) = client.fine_tuning.jobs.checkpoints.list(job)
    assert {ALIAS, "smollm2-135m-instruct", model} == {each.id for each in client.models.list()}
    assert client.models.retrieve(checkpoint.fine_tuned_model_checkpoint).id.endswith(":ckpt-step-3")
    assert client.models.delete(model).deleted
    for name in (model, checkpoint.fine_tuned_model_checkpoint):
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve(name)
    with pytest.raises(openai.PermissionDeniedError, match="is a base model"):
        client.models.delete(ALIAS)


@pytest.mark.parametrize("place", ["training_file", "validation_file"])
@pytest.mark.parametrize("is_paused", [False, True], ids=["queued", "paused"])
def test_a_file_that_a_job_still_needs_is_not_deleted(
    client: openai.OpenAI, file: str, place: str, is_paused: bool
) -> None:
    other = client.files.create(file=("rows.jsonl", ROWS), purpose="fine-tune").id
    files: Any = {"training_file": other, place: file}
    job = client.fine_tuning.jobs.create(model=ALIAS, **files).id
    if is_paused:
        client.fine_tuning.jobs.pause(job)
    with pytest.raises(openai.BadRequestError, match=f"{job} needs it.*cancel the job") as refused:
        client.files.delete(file)
    assert (refused.value.param, refused.value.code) == ("file_id", "file_in_use")
    assert client.files.content(file).content == ROWS
    client.fine_tuning.jobs.cancel(job)
    assert client.files.delete(file).deleted


def test_a_model_that_a_job_still_starts_from_is_not_deleted(
    gateway: Gateway, client: openai.OpenAI, file: str
) -> None:
    model = finish(gateway, client.fine_tuning.jobs.create(model=ALIAS, training_file=file).id)
    job = client.fine_tuning.jobs.create(model=f"{model}:ckpt-step-3", training_file=file).id
    with pytest.raises(openai.BadRequestError, match=f"{job} starts from it") as refused:
        client.models.delete(model)
    assert (refused.value.param, refused.value.code) == ("model", "model_in_use")
    client.fine_tuning.jobs.cancel(job)
    assert client.models.delete(model).deleted


def test_a_file_is_deleted_or_used_whichever_comes_first(acme: Project) -> None:
    with ThreadPoolExecutor(2) as pool:
        for _ in range(10):
            file = acme.upload(ROWS)["id"]
            created = pool.submit(acme.create, file)
            deleted = pool.submit(acme.client.delete, f"/v1/files/{file}")
            statuses = (created.result().status_code, deleted.result().status_code)
            assert statuses in ((200, 400), (404, 200))


@pytest.mark.parametrize("change", ["cancel", "pause"])
def test_a_job_ends_by_its_worker_or_by_its_owner_whoever_is_first(
    gateway: Gateway, acme: Project, change: str
) -> None:
    file = acme.upload(ROWS)["id"]
    queue = gateway.queue("worker")
    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            job = acme.create(file).json()["id"]
            made = made_by(take(queue, job))
            succeeded = pool.submit(queue.succeed, job, made)
            changed = pool.submit(acme.client.post, f"/v1/fine_tuning/jobs/{job}/{change}")
            outcome = (succeeded.result(), changed.result().status_code)
            shown = acme.client.get(f"/v1/fine_tuning/jobs/{job}").json()
            found = acme.client.get(f"/v1/models/{made.model}")
            status = {"cancel": "cancelled", "pause": "paused"}[change]
            assert (*outcome, shown["status"], found.status_code) in (
                (True, 400, "succeeded", 200),
                (False, 200, status, 404),
            )


def test_a_model_of_the_longest_name_is_tuned_further(gateway: Gateway) -> None:
    longest = gateway.project(f"l{secrets.token_hex(15)}")
    file = longest.upload(ROWS)["id"]
    model = finish(gateway, longest.create(file, suffix="s" * 64).json()["id"])
    further = longest.create(file, model=f"{model}:ckpt-step-3").json()
    assert further["model"] == f"{model}:ckpt-step-3"
