"""`tunebook serve` answers the openai SDK as the run was evaluated."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.integration.project import Project, kill


@pytest.fixture(scope="module")
def client(finished: Project) -> Iterator[openai.OpenAI]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = finished.start("serve", "tiny@latest", "--port", str(port))
    base_url = f"http://127.0.0.1:{port}/v1"
    try:
        deadline = time.monotonic() + 180
        while True:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "the server never became ready"
            try:
                if httpx.get(f"{base_url}/models").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.5)
        with openai.OpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
            yield client
    finally:
        kill(process)
        process.communicate()


def test_it_answers_to_the_names_of_the_run(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names[0] == "tiny@latest"
    assert names[1].startswith("tiny@")


def test_it_gives_the_answers_that_were_evaluated(client: openai.OpenAI, finished: Project) -> None:
    lines = (finished.stage("answer-tuned") / "answers.jsonl").read_text().splitlines()
    rows = (finished.stage("prepare") / "test.jsonl").read_text().splitlines()
    prompts = {row["id"]: row["messages"][:-1] for row in map(json.loads, rows)}
    evaluated = [answer for answer in map(json.loads, lines) if answer["item"] in prompts][:8]
    assert len(evaluated) == 8
    for answer in evaluated:
        served = client.chat.completions.create(
            model="tiny@latest", messages=prompts[answer["item"]], max_tokens=16
        )
        assert served.choices[0].message.content == answer["text"]
        assert served.choices[0].finish_reason == answer["finish_reason"]


def test_evaluated_through_its_endpoint_a_run_has_the_same_answers_and_verdict(
    client: openai.OpenAI, finished: Project, tmp_path: Path
) -> None:
    shutil.copytree(finished.folder, tmp_path / "copy", symlinks=True)
    project = Project(tmp_path / "copy")
    key = next(each["key"] for each in project.record("1")["stages"] if each["name"] == "answer-tuned")  # type: ignore[attr-defined]
    at = ("--endpoint", str(client.base_url), "--model", "tiny@latest")
    status, output = project.run("eval", "tiny", "--profile", "local", *at)
    assert status == 0, output
    here, there = (
        answers(folder) for folder in (project.folder / "runs" / key, project.stage("answer-tuned"))
    )
    assert there
    assert there == {at: each for at, each in here.items() if at[0] != "texts"}
    assert project.record()["verdict"] == project.record("1")["verdict"]


def answers(stage: Path) -> dict[tuple[str, str], tuple[str, str, int, int]]:
    """Text, end and tokens by set and item."""
    rows = map(json.loads, (stage / "answers.jsonl").read_text().splitlines())
    facts = ("text", "finish_reason", "prompt_tokens", "completion_tokens")
    return {(row["set"], row["item"]): tuple(row[name] for name in facts) for row in rows}


def test_an_unknown_model_is_refused_and_the_server_lives(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="other", messages=[{"role": "user", "content": "Hi"}])
    assert client.models.list().data


def test_serving_an_unknown_run_says_what_there_is(finished: Project) -> None:
    status, output = finished.run("serve", "tiny@99")
    assert status == 2
    assert "no run 'tiny@99'; tiny has: latest, 1" in output
