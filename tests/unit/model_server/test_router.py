from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from model_server.engine import Engine
from model_server.router import CHAT, Router, by_name
from model_server.traffic import Traffic


def engine(name: str) -> Engine:
    """Answers in two pieces, out of this process."""

    async def answer(_: Request) -> Response:
        return StreamingResponse(iter((b'{"a": ', b"1}")))

    async def metrics(_: Request) -> Response:
        return PlainTextResponse()

    app = Starlette(routes=[Route(CHAT, answer, methods=["POST"]), Route("/metrics", metrics)])
    made = Engine((name,), Path("none"), ())
    made.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://engine")
    return made


def failed(model: str) -> str:
    return f'tunebook_logged_answers_total{{model="{model}",outcome="failed"}} 3.0'


def test_a_log_that_cannot_be_written_is_told_once_and_clients_are_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shadow = {"of": "one@1", "to": "two@1"}
    traffic = Traffic.model_validate({"log": {"path": "/dev/full"}, "shadow": [shadow]})
    router = Router(by_name([engine("one@1"), engine("two@1")]), traffic, Path())
    body = {"model": "one@1", "messages": [{"role": "user", "content": "hi"}]}

    async def ask() -> list[httpx.Response]:
        transport, told = httpx.ASGITransport(router.application), ""
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            answers = [await client.post(CHAT, json=body) for _ in range(3)]
            async with asyncio.timeout(10):  # shadows answer when they will
                while not all(failed(model) in told for model in ("one@1", "two@1")):
                    told = (await client.get("/metrics")).text
                    await asyncio.sleep(
                        0.01
                    )  # in one process nothing else lets shadows, or the clock, have a turn
        await router.close()
        return answers

    with caplog.at_level(logging.ERROR):
        answers = asyncio.run(ask())
    assert [(each.status_code, each.json()) for each in answers] == [(200, {"a": 1})] * 3
    assert [each.getMessage() for each in caplog.records] == [
        "the log /dev/full cannot be written: [Errno 28] No space left on device"
    ]
