from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from model_server.asgi import ask

said: list[int] = []


async def count(_: Request) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        said.clear()
        for number in range(1000):
            said.append(number)
            yield b"%d " % number
            await asyncio.sleep(0.001)

    return StreamingResponse(pieces(), media_type="text/event-stream")


async def echo(request: Request) -> Response:
    return JSONResponse({"asked": await request.json()}, 400)


async def fail(_: Request) -> Response:
    raise ValueError("no")


routes = [Route("/count", count), Route("/echo", echo, methods=["POST"]), Route("/fail", fail)]
APP = Starlette(routes=routes)


async def all_of(method: str, path: str, body: bytes = b"") -> tuple[Any, bytes]:
    head, *pieces = [each async for each in ask(APP, method, path, body)]
    return head, b"".join(piece for piece in pieces if isinstance(piece, bytes))


def test_it_answers_as_to_a_client() -> None:
    assert asyncio.run(all_of("POST", "/echo", b"[1]")) == ((400, "application/json"), b'{"asked":[1]}')
    assert asyncio.run(all_of("GET", "/echo"))[0][0] == 405
    head, body = asyncio.run(all_of("GET", "/count"))
    assert head == (200, "text/event-stream; charset=utf-8")
    assert body.split() == [b"%d" % number for number in range(1000)]


def test_an_application_that_fails_has_answered_so() -> None:
    assert asyncio.run(all_of("GET", "/fail"))[0][0] == 500


async def mute(scope: Any, receive: Any, send: Any) -> None:
    raise ValueError("no answer")


def test_one_that_ends_without_an_answer_raises() -> None:
    async def listen() -> None:
        async for _ in ask(mute, "GET", "/", b""):
            pass

    with pytest.raises(ValueError, match="no answer"):
        asyncio.run(listen())


def test_to_stop_listening_is_to_hang_up() -> None:
    async def listen() -> None:
        async for _ in ask(APP, "GET", "/count", b""):
            pass

    async def hang_up() -> None:
        task = asyncio.create_task(listen())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(hang_up())
    assert 0 < len(said) < 900
