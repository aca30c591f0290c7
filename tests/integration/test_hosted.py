"""A run whose model is trained and served by a provider."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fine_tuning_endpoint import BASE, FineTuning, error, serving_fine_tuning
from tests.integration.project import COLOURS, HOSTED, TOPICS, Project
from tunebook_cli.main import main

KEY = "sk-never-to-be-seen"


def answer(body: dict[str, Any]) -> str:
    """The tuned model knows the colours."""
    question = body["messages"][-1]["content"]
    known = dict(zip(TOPICS, COLOURS, strict=True))
    is_tuned = body["model"].startswith(f"ft:{BASE}:org:colours:")
    return next((known[topic] for topic in TOPICS if is_tuned and topic in question), "Yes.")


@pytest.fixture
def service() -> Iterator[FineTuning]:
    with serving_fine_tuning(FineTuning(answer=answer)) as service:
        yield service


@pytest.fixture
def hosted(project: Project, service: FineTuning) -> Project:
    path = project.folder / "specs" / "tiny.yaml"
    path.write_text(path.read_text() + HOSTED)
    project.environment |= {
        "TUNEBOOK_HOSTED__BASE_URL": service.base_url,
        "TUNEBOOK_HOSTED__API_KEY": KEY,
        "TUNEBOOK_HOSTED__POLL_S": "0.05",
        "TUNEBOOK_HOSTED__TRAINING_PRICE": "25",
    }
    return project


def texts(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield path.read_bytes().decode(errors="replace")


def test_a_provider_trains_and_answers_to_a_verdict(hosted: Project, service: FineTuning) -> None:
    status, output = hosted.run("run", "tiny", "--profile", "hosted")
    assert status == 0, output
    assert "verdict: pass" in output
    (job,) = service.jobs.values()
    assert job["model"] == BASE
    assert service.chats[BASE] > 0
    assert service.chats[job["fine_tuned_model"]] > 0
    assert KEY not in output
    assert not any(KEY in text for text in texts(hosted.folder / "runs"))
    assert service.keys == {f"Bearer {KEY}"}
    trained = json.loads((hosted.stage("train") / "artifact.json").read_text())["result"]
    assert trained["fine_tuned_model"] == job["fine_tuned_model"]
    assert trained["cost"] == pytest.approx(25 * 1234 / 1e6)
    assert f"one update of tuned, at {trained['provider']}: 360 s, 1234 trained tokens" in output
    report = (hosted.folder / "runs" / "tiny" / "1" / "report.html").read_text()
    for told in (trained["provider"], job["id"], job["fine_tuned_model"], "Training and validation loss"):
        assert told in report
    card = (hosted.stage("train") / "README.md").read_text()
    assert f"`{job['fine_tuned_model']}` at {trained['provider']}, made there of {BASE}" in card


def test_an_organisation_that_cannot_train_is_told_before_anything_is_paid_for(
    hosted: Project, service: FineTuning
) -> None:
    closed = error(403, "Fine-tuning is no longer available to your organization.")
    service.trouble = lambda call, count: closed if call == "POST /fine_tuning/jobs" else None
    status, output = hosted.run("run", "tiny", "--profile", "hosted")
    assert status == 1
    assert "error: this organisation cannot create fine-tuning jobs at 127.0.0.1" in output
    assert "no longer available to your organization" in output
    assert not service.chats
    assert not service.files


def test_where_the_provider_is_has_to_be_set(
    hosted: Project, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(hosted.folder)
    status = main(["run", "tiny", "--profile", "hosted", "--dry-run"])
    assert status == 2
    told = "method.model: is trained by a provider, and nothing says where: set TUNEBOOK_HOSTED__BASE_URL"
    assert told in capfd.readouterr().err
