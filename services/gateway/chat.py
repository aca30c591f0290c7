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
_TYPES = {400: "invalid_request_error", 404: "invalid_request_error", 429: "requests"}

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
        502: {"model": ErrorBody, "description": "The model server does not answer."},
    },
)
async def create_completion(caller: CallerOf, state: StateOf, body: ChatRequest) -> Response:
    served = await run_in_threadpool(_find, state, caller, body.model)
    sent = {**body.model_dump(exclude_unset=True), "model": served.on_server}
    request = state.model_server.build_request("POST", "chat/completions", content=orjson.dumps(sent))
    request.headers["Content-Type"] = "application/json"
    try:
        answer = await state.model_server.send(request, stream=True)
    except httpx.HTTPError as error:
        message = f"The model server does not answer ({type(error).__name__})."
        raise ApiError(502, message, type="server_error") from None
    if answer.is_success and body.stream:
        return StreamingResponse(_events(answer, served), media_type="text/event-stream")
    try:
        content = orjson.loads(await answer.aread())
    finally:
        await answer.aclose()
    if not answer.is_success:
        raise _told(answer.status_code, content, served)
    return JSONResponse({**content, "model": served.name})


def _find(state: State, caller: Caller, name: str) -> Served:
    with state.database.read() as session:
        return find_model(session, state, caller.project, name)


async def _events(answer: httpx.Response, served: Served) -> AsyncIterator[bytes]:
    """The chunks, of the model as the caller calls it."""
    try:
        async for line in answer.aiter_lines():
            if line.startswith(_DATA + "{"):
                chunk = orjson.loads(line[len(_DATA) :])
                if "model" in chunk:
                    chunk["model"] = served.name
                line = _DATA + orjson.dumps(chunk).decode()
            yield f"{line}\n".encode()
    finally:
        await answer.aclose()


def _told(status: int, content: Any, served: Served) -> ApiError:
    """The model server's error, in the protocol's words."""
    error = content.get("error") if isinstance(content, dict) else None
    error = error if isinstance(error, dict) else {}
    message = str(error.get("message") or "The model server refused the request.")
    return ApiError(
        status,
        message.replace(served.on_server, served.name),
        type=_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error"),
        param=error.get("param"),
    )
