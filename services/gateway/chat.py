"""Chat completions, passed on to the model server and back, streamed where that was asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from gateway.errors import ApiError, ErrorBody
from gateway.models import Served, find_model
from gateway.state import CallerOf, State, StateOf
from tunebook_jobs.keys import Caller

_DATA = "data: "
_STATUSES = (400, 404, 429, 503)
"""Those of the model server that are told as they are."""

router = APIRouter(prefix="/chat", tags=["Chat"])


class ChatRequest(BaseModel):
    """What the gateway has to know; the rest is the model server's to read."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(min_length=1, max_length=255)
    messages: list[dict[str, Any]] = Field(min_length=1)
    stream: bool | None = None


@router.post(
    "/completions",
    response_model=None,
    responses={
        200: {
            "description": "A completion, or under `stream` its chunks as server-sent events.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        502: {"model": ErrorBody, "description": "The model server does not answer, or not as it should."},
        503: {"model": ErrorBody, "description": "The model cannot be started now."},
    },
)
async def create_completion(caller: CallerOf, state: StateOf, body: ChatRequest) -> Response:
    served = await run_in_threadpool(_find, state, caller, body.model)
    sent = {**body.model_dump(exclude_unset=True), "model": served.on_server}
    request = state.model_server.build_request("POST", "chat/completions", content=_json(sent))
    request.headers["Content-Type"] = "application/json"
    try:
        answer = await state.model_server.send(request, stream=True)
        if answer.is_success and body.stream:
            return StreamingResponse(_events(answer, served), media_type="text/event-stream")
        content = await _content(answer)
    except httpx.HTTPError as error:
        raise _away(error) from None
    if not answer.is_success:
        raise _told(answer.status_code, content, served)
    return JSONResponse({**content, "model": served.name})


def _json(sent: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(sent)
    except TypeError as error:
        message = f"The request holds what cannot be passed on: {error}."
        raise ApiError(400, message, code="invalid_json") from None


async def _content(answer: httpx.Response) -> dict[str, Any]:
    try:
        content = orjson.loads(await answer.aread())
    except orjson.JSONDecodeError:
        content = None
    finally:
        await answer.aclose()
    if not isinstance(content, dict):
        message = f"What the model server answers is no JSON object (status {answer.status_code})."
        raise ApiError(502, message, type="server_error")
    return content


def _away(error: httpx.HTTPError) -> ApiError:
    message = f"The model server does not answer ({type(error).__name__})."
    return ApiError(502, message, type="server_error")


def _find(state: State, caller: Caller, name: str) -> Served:
    with state.database.read() as session:
        return find_model(session, state, caller.project, name)


async def _events(answer: httpx.Response, served: Served) -> AsyncIterator[bytes]:
    """The chunks, of the model as the caller calls it; at the end an error where there is no more of them."""
    try:
        async for line in answer.aiter_lines():
            if line.startswith(_DATA + "{"):
                chunk = orjson.loads(line[len(_DATA) :])
                if "model" in chunk:
                    chunk["model"] = served.name
                line = _DATA + orjson.dumps(chunk).decode()
            yield f"{line}\n".encode()
    except httpx.HTTPError as error:
        yield f"{_DATA}{_away(error).body().model_dump_json()}\n\n".encode()
    finally:
        await answer.aclose()


def _told(status: int, content: dict[str, Any], served: Served) -> ApiError:
    """The model server's error, in the protocol's words."""
    error = content.get("error")
    error = error if isinstance(error, dict) else {}
    message = str(error.get("message") or "The model server refused the request.")
    if status not in _STATUSES:
        status = 502 if status >= 500 else 400
    kind = "server_error" if status >= 500 else "requests" if status == 429 else "invalid_request_error"
    return ApiError(
        status, message.replace(served.on_server, served.name), type=kind, param=error.get("param")
    )
