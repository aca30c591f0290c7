"""What a request passes before any of its body is read, and what is written of it afterwards.

Who asks, how often, and how much they send is known from the headers: nobody without a key gets a file of
half a gigabyte onto this disk.
"""

from __future__ import annotations

import logging
import math
import secrets
import time
from typing import Any

from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import ApiError
from gateway.files import MAX_FILE_BYTES
from gateway.rates import Rates
from tunebook_jobs.database import Database
from tunebook_jobs.keys import Caller, caller_of, find_key
from tunebook_jobs.tables import AuditEntry

logger = logging.getLogger(__name__)

PREFIX = "/v1/"
MAX_BODY_BYTES = 16 * 2**20
"""Of every request that is no file."""
_MULTIPART_BYTES = 2**16
"""What the form around a file may take."""
_NOT_AUDITED = ("GET", "HEAD", "OPTIONS")
_REFUSAL_EVERY_S = 60.0
"""For one key that was made here, and for all others together: who guesses does not fill the disk."""


class Doorway:
    def __init__(self, app: ASGIApp, database: Database, requests_per_minute: int) -> None:
        self._app, self._database = app, database
        self._rates = Rates(requests_per_minute)
        self._refused_at: dict[str | None, float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(PREFIX):
            await self._app(scope, receive, send)
            return
        status = 500
        headers = {"x-request-id": f"req_{secrets.token_hex(16)}"}

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(headers)
            await send(message)

        try:
            caller = await self._caller(scope)
            scope.setdefault("state", {})["caller"] = caller
            headers |= self._rates.take(caller.key)
            _check_names(scope)
            most = MAX_FILE_BYTES + _MULTIPART_BYTES if scope["path"] == "/v1/files" else MAX_BODY_BYTES
            body = _Body(receive, _declared(Headers(scope=scope), most), most)
        except ApiError as error:
            headers |= error.headers or {}
            await error.response()(scope, receive, answer)
            logger.warning("%s %s: %d %s", scope["method"], scope["path"], status, error.detail.message)
            return
        try:
            await self._app(scope, body.receive, body.unless_too_large(answer))
            if body.is_too_large:
                await _too_large(most).response()(scope, receive, answer)
        finally:
            if scope["method"] not in _NOT_AUDITED and not scope["path"].startswith("/v1/chat/"):
                await run_in_threadpool(self._audit, caller, scope, status)

    async def _caller(self, scope: Scope) -> Caller:
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            message = "You didn't provide an API key: send it in an Authorization header, Bearer YOUR_KEY."
            raise ApiError(401, message)
        caller = await run_in_threadpool(caller_of, self._database, key.strip())
        if caller is None:
            await self._audit_refusal(key.strip(), scope)
            raise ApiError(401, "Incorrect API key provided.", code="invalid_api_key")
        return caller

    async def _audit_refusal(self, key: str, scope: Scope) -> None:
        known = await run_in_threadpool(find_key, self._database, key)
        id, project = (known.id, known.project) if known else (None, None)
        now = time.monotonic()
        if now - self._refused_at.get(id, -math.inf) < _REFUSAL_EVERY_S:
            return
        self._refused_at[id] = now
        host, _ = scope.get("client") or (None, None)
        entry = AuditEntry(at=time.time(), project=project, key=id, action="refused", target=host, status=401)
        await run_in_threadpool(self._write, entry)

    def _audit(self, caller: Caller, scope: Scope, status: int) -> None:
        route: Any = scope.get("route")
        action = f"{scope['method']} {route.path if route else 'no such route'}"[:128]
        target = ",".join(map(str, scope.get("path_params", {}).values()))[:255] or None
        entry = AuditEntry(
            at=time.time(),
            project=caller.project,
            key=caller.key,
            action=action,
            target=target,
            status=status,
        )
        self._write(entry)
        logger.info("%s %s: %d, project %s, key %s", action, target, status, caller.project, caller.key)

    def _write(self, entry: AuditEntry) -> None:
        with self._database.write() as session:
            session.add(entry)


def _check_names(scope: Scope) -> None:
    """Refuse what Postgres can hold in no text, and therefore not compare with any."""
    if "\0" in scope["path"] or b"%00" in scope["query_string"]:
        raise ApiError(400, "U+0000 is in no name and in no parameter.")


def _declared(headers: Headers, most: int) -> int | None:
    """The length that a request says it has.

    Raises:
        ApiError: 413, or 400 where it is no length.
    """
    told = headers.get("content-length")
    if told is None:
        return None
    if not (told.isascii() and told.isdigit()):
        raise ApiError(400, "Invalid Content-Length.")
    if int(told) > most:
        raise _too_large(most)
    return int(told)


class _Body:
    """A body that ends where it becomes larger than it may be, however long it said that it is."""

    def __init__(self, receive: Receive, declared: int | None, most: int) -> None:
        self._receive, self._most, self._received = receive, most, 0
        self._is_counted = declared is None
        self.is_too_large = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._received += len(message.get("body", b""))
        if self._is_counted and self._received > self._most:
            self.is_too_large = True
            return {"type": "http.disconnect"}
        return message

    def unless_too_large(self, send: Send) -> Send:
        """Whatever the app makes of a body that was cut off is not said."""

        async def answer(message: Message) -> None:
            if not self.is_too_large:
                await send(message)

        return answer


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"The request is larger than {most} bytes.", headers={"Connection": "close"})
