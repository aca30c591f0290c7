from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from tunebook_run.traffic_log import read_log

PROGRAM = Path(__file__).with_name("router_process.py")


@dataclass(frozen=True)
class Served:
    process: subprocess.Popen[str]
    url: str
    folder: Path

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def under_way(self) -> float:
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:running{"))


TRAFFIC = """\
split:
  medical: {medical@latest: 1, voice@2: 1}
shadow:
  - {of: medical, to: voice@2}
log: {path: log.jsonl}
"""


@contextmanager
def serving(*engines: str, traffic: str | None = None) -> Iterator[Served]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        if traffic is not None:
            (Path(folder) / "traffic.yaml").write_text(traffic)
        command = [sys.executable, str(PROGRAM), str(port), folder, *engines]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 60
            while not is_healthy(url):
                assert process.poll() is None, process.communicate()[1]
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield Served(process, url, Path(folder))
        finally:
            process.kill()
            process.wait()
            assert process.stderr is not None
            process.stderr.close()  # an engine left behind would hold its other end


def is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving("medical@latest,medical@3", "voice@2", traffic=TRAFFIC) as served:
        yield served


def asking(content: str) -> Any:
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("medical@latest", "medical@latest"),
        ("medical@3", "medical@latest"),
        ("voice@2", "voice@2"),
    ],
)
def test_each_name_is_answered_by_its_engine(served: Served, name: str, engine: str) -> None:
    with served.client() as client:
        answer = client.chat.completions.create(model=name, messages=asking("hi"))
        assert answer.choices[0].message.content == f"{engine}: hi"
        stream = client.chat.completions.create(model=name, messages=asking("hi"), stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "0 1 2 3 4 "


def test_models_and_metrics_are_those_of_all(served: Served) -> None:
    with served.client() as client:
        *engines, split = client.models.list()
    assert [each.id for each in engines] == ["medical@latest", "voice@2"]
    assert split.id == "medical"
    assert "/models/voice@2" in split.root, "it changes with what is behind the name"  # type: ignore[attr-defined]
    lines = httpx.get(f"{served.url}/metrics").text.splitlines()
    assert lines[:2] == ["# HELP vllm:running Under way.", "# TYPE vllm:running gauge"]
    assert [line.split()[0] for line in lines[2:4]] == [
        f'vllm:running{{model_name="{name}"}}' for name in ("medical@latest", "voice@2")
    ]


def test_an_engines_refusal_comes_back_as_it_is(served: Served) -> None:
    told: Any = {"type": "json_object"}
    with served.client() as client, pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="medical@3", messages=asking("hi"), response_format=told)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "the body is not JSON: "),
        (b"[]", 400, "the body is no object with a `model`"),
        (b'{"model": 3}', 400, "the body is no object with a `model`"),
        (
            b'{"model": "a"}',
            404,
            "no model 'a' is served; there are: medical, medical@latest, medical@3, voice@2",
        ),
    ],
    ids=["no JSON", "no object", "no name", "unknown"],
)
def test_what_is_for_no_engine_is_refused_here(
    served: Served, body: bytes, status: int, message: str
) -> None:
    answer = httpx.post(f"{served.url}/v1/chat/completions", content=body)
    assert answer.status_code == status
    assert answer.json()["error"]["message"].startswith(message)


def test_64_at_once_are_all_answered(served: Served) -> None:
    names = ("medical@latest", "voice@2")

    async def ask() -> list[Any]:
        url = f"{served.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            create = client.chat.completions.create
            calls = [create(model=names[n % 2], messages=asking(f"slow 0.3 {n}")) for n in range(64)]
            return await asyncio.gather(*calls)

    for number, answer in enumerate(asyncio.run(ask())):
        assert answer.choices[0].message.content == f"{names[number % 2]}: slow 0.3 {number}"


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_client_that_hangs_up_ends_the_engines_work_for_it(served: Served, stream: bool) -> None:
    quick = httpx.Timeout(5, read=0.4)
    body = {"model": "medical@3", "messages": asking("slow 20"), "stream": stream}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{served.url}/v1/chat/completions", json=body, timeout=quick)
    deadline = time.monotonic() + 5
    while served.under_way():
        assert time.monotonic() < deadline, "it goes on"
        time.sleep(0.05)


def test_told_to_stop_it_finishes_what_is_under_way_and_its_engines_end() -> None:
    with serving("medical@3", "voice@2") as served, served.client() as client:
        stream = iter(
            client.chat.completions.create(model="medical@3", messages=asking("slow 1"), stream=True)
        )
        next(stream)
        served.process.send_signal(signal.SIGTERM)
        assert [chunk.choices[0].delta.content for chunk in stream] == ["1 ", "2 ", "3 ", "4 "]
        assert served.process.wait(10) == 0
        assert not is_healthy(served.url)


def test_killed_it_leaves_no_engine_behind() -> None:
    with serving("medical@3", "voice@2") as served:
        engines = psutil.Process(served.process.pid).children()
        assert len(engines) == 2
        served.process.kill()
        _, alive = psutil.wait_procs(engines, timeout=10)
        assert alive == []


def test_without_one_of_its_engines_the_server_ends_and_says_why() -> None:
    with serving("medical@3", "voice@2") as served, served.client() as client:
        with pytest.raises(openai.InternalServerError, match=r"the engine of medical@3 does not answer"):
            client.chat.completions.create(model="medical@3", messages=asking("exit"))
        assert served.process.wait(10) == 1
        assert served.process.stderr is not None
        assert (
            "error: the engine of medical@3 ended with status 3; its log says why"
            in served.process.stderr.read()
        )


def test_an_engine_that_ends_in_the_middle_of_an_answer_is_told_of() -> None:
    with serving("medical@3", "voice@2") as served, served.client() as client:
        stream = client.chat.completions.create(model="medical@3", messages=asking("half"), stream=True)
        said: list[str | None] = []
        with pytest.raises(openai.APIConnectionError):
            said.extend(chunk.choices[0].delta.content for chunk in stream)
        assert said == ["0 ", "1 ", "2 "]
        assert served.process.wait(10) == 1
        assert served.process.stderr is not None
        told = served.process.stderr.read()
    assert "the engine of medical@3 ended in the middle of an answer: RemoteProtocolError" in told


def test_a_split_answers_by_users_and_its_shadow_is_only_logged(served: Served) -> None:
    before = len(read_log(served.folder / "log.jsonl"))
    answered: dict[str, str] = {}
    with served.client() as client:
        for number in range(20):
            answer = client.chat.completions.create(
                model="medical", messages=asking(f"hi {number}"), user=f"user {number}"
            )
            assert answer.choices[0].message.content == f"{answer.model}: hi {number}"
            answered[f"hi {number}"] = answer.model
    assert set(answered.values()) == {"medical@latest", "voice@2"}
    by_medical = sum(model == "medical@latest" for model in answered.values())
    deadline = time.monotonic() + 10
    while len(rows := read_log(served.folder / "log.jsonl")[before:]) < 20 + by_medical:
        assert time.monotonic() < deadline, rows
        time.sleep(0.05)
    told = {row.messages[-1].content: row for row in rows if not row.is_shadow}
    shadows = {row.messages[-1].content: row for row in rows if row.is_shadow}
    assert {content: row.model for content, row in told.items()} == answered
    assert {content for content, model in answered.items() if model == "medical@latest"} == set(shadows)
    for content, row in shadows.items():
        assert (row.model, row.text, row.id) == ("voice@2", f"voice@2: {content}", told[content].id)
