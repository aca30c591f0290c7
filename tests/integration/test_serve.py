"""`tunebook serve` answers the openai SDK as the run was evaluated, and bad clients do it no harm."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.integration.project import COLOURS, Project
from tests.integration.serving import MODEL, QUESTION, Server, is_ready, serving


@pytest.fixture(scope="module")
def server(finished: Project) -> Iterator[Server]:
    """One for all tests; the last of them stops it."""
    with serving(finished) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
        yield client


@dataclass(frozen=True)
class Evaluated:
    """A question of the evaluation, and what was answered to it."""

    messages: Any
    text: str
    finish_reason: str


@pytest.fixture(scope="module")
def evaluated(finished: Project) -> list[Evaluated]:
    lines = (finished.stage("answer-tuned") / "answers.jsonl").read_text().splitlines()
    rows = (finished.stage("prepare") / "test.jsonl").read_text().splitlines()
    prompts = {row["id"]: row["messages"][:-1] for row in map(json.loads, rows)}
    found = [each for each in map(json.loads, lines) if each["item"] in prompts]
    assert len(found) > 8
    return [Evaluated(prompts[each["item"]], each["text"], each["finish_reason"]) for each in found]


def test_it_answers_to_the_names_of_the_run(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names[0] == MODEL
    assert names[1].startswith("tiny@")


def test_64_requests_at_once_get_the_answers_that_were_evaluated(
    server: Server, evaluated: list[Evaluated]
) -> None:
    asked = [evaluated[number % len(evaluated)] for number in range(64)]

    async def ask() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
            create = client.chat.completions.create
            return await asyncio.gather(
                *(create(model=MODEL, messages=each.messages, max_tokens=16) for each in asked)
            )

    for each, served in zip(asked, asyncio.run(ask()), strict=True):
        assert served.choices[0].message.content == each.text
        assert served.choices[0].finish_reason == each.finish_reason


def test_a_stream_says_the_same_piece_by_piece(client: openai.OpenAI, evaluated: list[Evaluated]) -> None:
    asked = evaluated[0]
    options: Any = {"include_usage": True}
    pieces, usage = [], None
    for chunk in client.chat.completions.create(
        model=MODEL, messages=asked.messages, max_tokens=16, stream=True, stream_options=options
    ):
        pieces += [choice.delta.content or "" for choice in chunk.choices]
        usage = chunk.usage or usage
    assert "".join(pieces) == asked.text
    assert usage is not None
    assert usage.completion_tokens > 1
    # A server sends together what is there by the time that a client reads; of a long answer that is not all.
    assert len(list(talk(client))) > 4


def test_an_answer_is_held_to_a_json_schema(client: openai.OpenAI) -> None:
    schema = {"type": "string", "enum": list(COLOURS)}
    told: Any = {"type": "json_schema", "json_schema": {"name": "colour", "strict": True, "schema": schema}}
    free = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=30)
    held = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=30, response_format=told)
    assert json.loads(held.choices[0].message.content or "") in COLOURS
    with pytest.raises(json.JSONDecodeError):
        json.loads(free.choices[0].message.content or "")


def test_log_probabilities_are_told(client: openai.OpenAI, evaluated: list[Evaluated]) -> None:
    served = client.chat.completions.create(
        model=MODEL, messages=evaluated[0].messages, max_tokens=16, logprobs=True, top_logprobs=3
    )
    told = served.choices[0].logprobs
    assert told is not None
    assert told.content
    for place in told.content:
        assert len(place.top_logprobs) == 3
        assert place.logprob == max(each.logprob for each in place.top_logprobs), "greedy"
        assert place.logprob <= 0


def is_unharmed(client: openai.OpenAI, evaluated: list[Evaluated]) -> bool:
    served = client.chat.completions.create(model=MODEL, messages=evaluated[0].messages, max_tokens=16)
    return bool(served.choices[0].message.content == evaluated[0].text)


LONG: Any = [{"role": "user", "content": "sky " * 600}]
OTHER_DATE = {"date_string": "today"}
BAD: dict[str, tuple[bytes, int, str]] = {
    "beyond the context": (json.dumps({"model": MODEL, "messages": LONG}).encode(), 400, "512"),
    "malformed": (b'{"model": "tiny@latest", "messages": [', 400, "JSON"),
    "no object": (b"[1, 2]", 400, ""),
    "no messages": (json.dumps({"model": MODEL}).encode(), 400, "messages"),
    "unknown model": (json.dumps({"model": "other", "messages": QUESTION}).encode(), 404, "other"),
    "another template": (
        json.dumps({"model": MODEL, "messages": QUESTION, "chat_template": "{{ 1 }}"}).encode(),
        400,
        "template",
    ),
    "another argument of the template": (
        json.dumps({"model": MODEL, "messages": QUESTION, "chat_template_kwargs": OTHER_DATE}).encode(),
        400,
        "chat_template_kwargs.date_string is '26 Jul 2024', as the model was trained; it cannot be 'today'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_refused_with_the_reason_and_the_server_lives(
    server: Server, client: openai.OpenAI, evaluated: list[Evaluated], case: str
) -> None:
    body, status, told = BAD[case]
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(f"{server.base_url}/chat/completions", content=body, headers=headers)
    assert answer.status_code == status, answer.text
    assert told in answer.json()["error"]["message"]
    assert is_unharmed(client, evaluated)


def running(server: Server) -> float:
    """Requests under way, as the metrics have it."""
    text = httpx.get(f"{server.url}/metrics").text
    lines = [line for line in text.splitlines() if line.startswith("vllm:num_requests_running{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def talk(client: openai.OpenAI, **more: Any) -> Any:
    """A stream that goes on for long: it may not stop by itself."""
    asked: Any = {"max_tokens": 200, "extra_body": {"ignore_eos": True}, **more}
    return client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True, **asked)


def test_a_client_that_hangs_up_is_forgotten(
    server: Server, client: openai.OpenAI, evaluated: list[Evaluated]
) -> None:
    before = finished_by(server, "length")
    # So many answers at once take seconds to their end, and a hang-up is seen in milliseconds.
    streams = [talk(client, max_tokens=400, n=128, temperature=1.0) for _ in range(3)]
    for stream in streams:
        next(iter(stream))
        stream.close()
    deadline = time.monotonic() + 20
    while running(server) > 0:
        assert time.monotonic() < deadline, "its answer goes on"
        time.sleep(0.05)
    assert finished_by(server, "length") == before, "none went on to its end"
    assert is_unharmed(client, evaluated)


def finished_by(server: Server, reason: str) -> float:
    text = httpx.get(f"{server.url}/metrics").text
    start, told = "vllm:request_success_total{", f'finished_reason="{reason}"'
    lines = [line for line in text.splitlines() if line.startswith(start) and told in line]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def test_metrics_count_requests_by_how_they_ended(server: Server, client: openai.OpenAI) -> None:
    before = finished_by(server, "length")
    client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=1)
    assert finished_by(server, "length") == before + 1
    assert 'model_name="tiny@latest"' in httpx.get(f"{server.url}/metrics").text


def test_evaluated_through_its_endpoint_a_run_has_the_same_answers_and_verdict(
    server: Server, finished: Project, tmp_path: Path
) -> None:
    shutil.copytree(finished.folder, tmp_path / "copy", symlinks=True)
    project = Project(tmp_path / "copy")
    stages: Any = project.record("1")["stages"]
    key = next(each["key"] for each in stages if each["name"] == "answer-tuned")
    at = ("--endpoint", server.base_url, "--model", MODEL)
    status, output = project.run("eval", "tiny", "--profile", "local", *at)
    assert status == 0, output
    here, there = map(answers, (project.folder / "runs" / key, project.stage("answer-tuned")))
    assert there
    assert there == {at: each for at, each in here.items() if at[0] != "texts"}
    assert judged(project.record()) == judged(project.record("1"))


def judged(record: dict[str, Any]) -> list[str]:
    """The gates, and the verdict."""
    outcomes = ("pass ", "fail ", "inconclusive ", "verdict: ")
    lines = [line for line in record["verdict"] if line.startswith(outcomes)]
    assert lines[-1] == "verdict: pass (1 pass, 0 fail, 0 inconclusive)"
    return lines


def answers(stage: Path) -> dict[tuple[str, str], tuple[Any, ...]]:
    """Text, end and tokens by set and item."""
    rows = map(json.loads, (stage / "answers.jsonl").read_text().splitlines())
    facts = ("text", "finish_reason", "prompt_tokens", "completion_tokens")
    return {(row["set"], row["item"]): tuple(row[name] for name in facts) for row in rows}


def test_serving_an_unknown_run_says_what_there_is(finished: Project) -> None:
    status, output = finished.run("serve", "tiny@99")
    assert status == 2
    assert "no run 'tiny@99'; tiny has: latest, 1" in output


def test_a_server_that_is_told_to_stop_finishes_what_is_under_way(
    server: Server, client: openai.OpenAI
) -> None:
    stream = iter(talk(client))
    first = next(stream)
    server.process.send_signal(signal.SIGTERM)
    chunks = [first, *stream]
    assert chunks[-1].choices[0].finish_reason == "length"
    assert server.process.wait(timeout=60) == 0
    assert not is_ready(server.url)
