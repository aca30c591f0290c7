"""Passes a request on to an engine, and its answer back as it comes, for as long as the client stays."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, TypeVar

import httpx
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from model_server.engine import Engine
from model_server.errors import error
from tunebook_spec.errors import InputError, StageError

JSON = {"content-type": "application/json"}
CHAT = "/v1/chat/completions"
PATHS = (CHAT, "/v1/completions")

Found = TypeVar("Found")

OnAnswer = Callable[[int, bytes | None], None]
"""Told the status and the body of an answer once all of it was sent; None: there was no answer."""

logger = logging.getLogger(__name__)


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class _Relayed(StreamingResponse):
    """Lets go of what it is made of once it was sent, or nobody takes it."""

    def __init__(self, answer: httpx.Response, name: str, on_answer: OnAnswer, held: AsyncExitStack) -> None:
        kind = answer.headers.get("content-type")
        super().__init__(_pieces(answer, name, on_answer), answer.status_code, media_type=kind)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            await super().__call__(scope, receive, send)


class UnknownModel(InputError):
    """No such model is served."""


async def read_model(request: Request, known: Collection[str] | None = None) -> tuple[dict[str, Any], str]:
    """What is asked, and the name of the model that is to answer.

    Args:
        request: of the client.
        known: the names that there are; none: any name will do here.

    Raises:
        InputError: the body does not say; `refused` is the answer to it.
    """
    try:
        asked = json.loads(await request.body())
    except ValueError as problem:
        raise InputError(f"the body is not JSON: {problem}") from None
    name = asked.get("model") if isinstance(asked, dict) else None
    if not isinstance(name, str):
        raise InputError("the body is no object with a `model`")
    if known is not None and name not in known:
        raise UnknownModel(f"no model {name!r} is served; there are: {', '.join(known)}")
    return asked, name


def refused(problem: InputError) -> Response:
    return error(404 if isinstance(problem, UnknownModel) else 400, str(problem), "model")


async def pass_on(
    request: Request,
    body: bytes,
    using: AbstractAsyncContextManager[Engine],
    on_answer: OnAnswer = lambda status, body: None,
) -> Response:
    """The engine's answer, or an error in its place.

    Args:
        request: of the client; its path is the engine's too.
        body: to be sent.
        using: the engine, kept until all of its answer was sent.
        on_answer: told what became of it.
    """
    async with AsyncExitStack() as held:
        try:
            engine = await _unless_gone(request, held.enter_async_context(using))
            sent = engine.http.build_request("POST", request.url.path, content=body, headers=JSON)
            answer = await _unless_gone(request, engine.http.send(sent, stream=True))
        except ClientGone:
            on_answer(499, None)
            return Response(status_code=499)
        except StageError as problem:
            logger.error("%s", problem)
            on_answer(503, None)
            return error(503, str(problem))
        except httpx.TransportError as problem:
            on_answer(503, None)
            return error(503, f"the engine of {engine.name} does not answer: {type(problem).__name__}")
        held.push_async_callback(answer.aclose)
        return _Relayed(answer, engine.name, on_answer, held.pop_all())


async def _pieces(answer: httpx.Response, name: str, on_answer: OnAnswer) -> AsyncIterator[bytes]:
    """The answer of the engine of that name; cut off as it is where the engine ends meanwhile."""
    said: list[bytes] = []
    try:
        async for piece in answer.aiter_raw():
            said.append(piece)
            yield piece
    except httpx.TransportError as problem:
        logger.error("the engine of %s ended in the middle of an answer: %s", name, type(problem).__name__)
        on_answer(503, None)
        raise
    on_answer(answer.status_code, b"".join(said))


async def _unless_gone(request: Request, coming: Coroutine[Any, Any, Found]) -> Found:
    """What comes; the head of an answer that is no stream comes when all of it is there.

    Raises:
        ClientGone: the client hung up; an engine is told so by the closed connection.
    """
    task = asyncio.ensure_future(coming)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        gone.cancel()
        task.cancel()


async def _gone(request: Request) -> None:
    while not await request.is_disconnected():
        await asyncio.sleep(0.1)
