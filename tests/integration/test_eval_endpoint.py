"""`tunebook eval` asks any endpoint of the OpenAI protocol, to the verdict that a run would have."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.project import COLOURS, TOPICS, Project
from tests.openai_endpoint import Endpoint, Reply, serving

CONCURRENCY = 3
RIGHT = dict(zip(TOPICS, COLOURS, strict=True))


def right(body: dict[str, Any]) -> Reply:
    found = re.search(r"colour is the (\w+) number", body["messages"][-1]["content"])
    return Reply(RIGHT[found[1]] if found else "4")


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    shutil.copytree(finished.folder, tmp_path / "copy", symlinks=True)
    project = Project(tmp_path / "copy")
    project.environment["TUNEBOOK_MODELS__TUNED__CONCURRENCY"] = "9"
    project.environment["TUNEBOOK_MODELS__TUNED__API_KEY"] = "sk-secret"
    return project


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with serving(Endpoint(right, models=[{"id": "ours", "object": "model"}])) as endpoint:
        yield endpoint


def command(endpoint: Endpoint, model: str = "ours") -> tuple[str, ...]:
    at = ("--endpoint", endpoint.base_url, "--model", model, "--concurrency", str(CONCURRENCY))
    return ("eval", "tiny", "--profile", "local", *at)


def test_a_killed_evaluation_asks_nothing_twice_and_ends_in_report_and_verdict(
    project: Project, endpoint: Endpoint
) -> None:
    held, answers = threading.Event(), iter(range(7))

    def reply(body: dict[str, Any]) -> Reply:
        if next(answers, None) is None:
            held.wait(300)
            return Reply(status=0)
        return right(body)

    endpoint.reply = reply
    output = project.run_until(
        lambda: endpoint.under_way == CONCURRENCY and endpoint.num_calls == 7 + CONCURRENCY,
        *command(endpoint),
    )
    held.set()
    assert endpoint.answered.total() == 7, output
    endpoint.reply = right
    status, output = project.run(*command(endpoint))
    assert status == 0, output
    lines = (project.stage("answer-tuned") / "answers.jsonl").read_text().splitlines()
    answers_ = [json.loads(line) for line in lines]
    num_colours = len({each["item"] for each in answers_ if each["set"] == "colour"})
    assert {each["set"] for each in answers_} == {"colour", "own"}, "no endpoint is asked for fixed texts"
    assert set(endpoint.answered.values()) == {1}
    assert endpoint.answered.total() == num_colours + 1
    assert endpoint.most_under_way == CONCURRENCY
    assert output.strip().splitlines()[-1].startswith("verdict: pass")
    record = project.record()
    assert record["served"]["model"] == "ours"  # type: ignore[index]
    assert [each["name"] for each in record["stages"] if not each["skipped"]] == [  # type: ignore[attr-defined]
        *("answer-tuned", "judge-critic", "evaluate", "decide")
    ]
    page = (project.folder / "runs" / "tiny" / "latest" / "report.html").read_text()
    assert f"ours at {endpoint.base_url.removeprefix('http://')}" in page
    calls = endpoint.num_calls
    status, output = project.run(*command(endpoint))
    assert (status, endpoint.num_calls) == (0, calls), "what is made is not made again"
    status, output = project.run("verify", "tiny")
    assert status == 0, output
    for file in (project.folder / "runs").rglob("*"):
        assert not file.is_file() or b"sk-secret" not in file.read_bytes(), file


def test_a_model_that_is_not_served_there_is_refused_before_anything_runs(
    project: Project, endpoint: Endpoint
) -> None:
    before = project.record()
    status, output = project.run(*command(endpoint, "theirs"))
    assert status == 2
    assert "serves no 'theirs'; it serves: ours" in output
    assert project.record() == before
