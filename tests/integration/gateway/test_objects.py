"""What is answered has every field that the types of the `openai` package know, with a value of its type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from openai.types import FileDeleted, FileObject, Model, ModelDeleted
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from pydantic import BaseModel

from tests.gateway_client import ROWS, Gateway, Project, finish, lines, open_gateway, row, take
from tunebook_jobs.events import NewEvent


def fits(kind: type[BaseModel], answer: Any) -> dict[str, Any]:
    """The body, once it is known to be of that type; the package itself does not check."""
    assert answer.status_code == 200, answer.text
    body = dict(answer.json())
    kind.model_validate(body, strict=True)
    required = {name for name, each in kind.model_fields.items() if each.is_required()}
    assert required <= set(body)
    return body


def fit(kind: type[BaseModel], answer: Any) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["object"], bool(body["data"])) == ("list", True)
    for each in body["data"]:
        kind.model_validate(each, strict=True)
    return list(body["data"])


@pytest.mark.parametrize("method", ["supervised", "dpo"])
def test_every_object_is_of_its_type(gateway: Gateway, acme: Project, method: str) -> None:
    get = acme.client.get
    rows = ROWS if method == "supervised" else lines(*map(preference, range(10)))
    file = fits(FileObject, acme.send(rows))["id"]
    fits(FileObject, get(f"/v1/files/{file}"))
    fit(FileObject, get("/v1/files"))
    job = fits(FineTuningJob, acme.create(file, method={"type": method}, metadata={"a": "b"}))["id"]
    fits(FineTuningJob, get(f"/v1/fine_tuning/jobs/{job}"))
    failed = acme.upload(lines(row(1)))["id"]
    assert fits(FineTuningJob, acme.create(failed))["status"] == "failed"
    queue = gateway.queue("teller")
    take(queue, job)
    queue.tell(job, NewEvent("Step 1", data={"step": 1}, step=1))
    queue.release(job)
    model = finish(gateway, job)
    done = fits(FineTuningJob, get(f"/v1/fine_tuning/jobs/{job}"))
    assert (done["fine_tuned_model"], done["trained_tokens"]) == (model, 100)
    fit(FineTuningJob, get("/v1/fine_tuning/jobs"))
    told = fit(FineTuningJobEvent, get(f"/v1/fine_tuning/jobs/{job}/events"))
    assert {event["type"] for event in told} == {"message", "metrics"}
    fit(FineTuningJobCheckpoint, get(f"/v1/fine_tuning/jobs/{job}/checkpoints"))
    fits(Model, get(f"/v1/models/{model}"))
    fit(Model, get("/v1/models"))
    fits(ModelDeleted, acme.client.delete(f"/v1/models/{model}"))
    fits(FileDeleted, acme.client.delete(f"/v1/files/{file}"))


def preference(number: int) -> dict[str, Any]:
    question = {"role": "user", "content": f"What is {number}?"}
    good, bad = ([{"role": "assistant", "content": text}] for text in (f"It is {number}.", "Who knows."))
    return {"input": {"messages": [question]}, "preferred_output": good, "non_preferred_output": bad}


def test_files_lie_in_an_object_store_too(tmp_path: Path, s3_url: str) -> None:
    with open_gateway(tmp_path, storage_url=s3_url) as gateway:
        gateway.state.store.filesystem.create_dir("bucket")
        acme = gateway.project("acme")
        file = acme.upload(ROWS)["id"]
        assert acme.client.get(f"/v1/files/{file}/content").content == ROWS
        assert acme.client.delete(f"/v1/files/{file}").status_code == 200
        assert gateway.state.store.list_files("gateway") == []
        assert acme.client.get(f"/v1/files/{file}/content").status_code == 404
