"""Asks an ASGI application in this process, as a client of its server would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.types import ASGIApp, Message

JSON = [(b"content-type", b"application/json")]


async def ask(app: ASGIApp, method: str, path: str, body: bytes) -> AsyncIterator[tuple[int, str] | bytes]:
    """What it answers: status and content type, and then the body as it comes.

    To stop listening is to hang up, and ends once the application has heard of it.
    """
    told: list[Message] = []
    news, gone = asyncio.Event(), asyncio.Event()
    request: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if request:
            return request.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        told.append(message)
        news.set()

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": JSON,
    }
    task = asyncio.ensure_future(app(scope, receive, send))
    task.add_done_callback(lambda _: news.set())
    has_begun = False
    try:
        while not task.done() or told:
            await news.wait()
            news.clear()
            messages = [*told]
            told.clear()
            for head in messages[:1] if not has_begun else ():
                has_begun = True
                yield head["status"], dict(head["headers"]).get(b"content-type", b"").decode()
            if piece := b"".join(each.get("body", b"") for each in messages):
                yield piece
    finally:
        gone.set()
        await asyncio.wait((task,))
        problem = task.exception()
    if problem is not None and not has_begun:
        raise problem
