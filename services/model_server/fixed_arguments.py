"""Keeps the chat template's arguments as training had them: vLLM lets a request override its defaults."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model_server.errors import error

UNSET = (None, "auto")
"""Values of a request's own fields that leave the template's arguments as they are."""


class FixedArguments:
    """ASGI middleware that refuses a request which sets a default of the server otherwise."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        body = await Request(scope, receive).body()
        fixed = scope["app"].state.args.default_chat_template_kwargs
        if (problem := _problem(fixed, body)) is not None:
            await error(400, problem, "chat_template_kwargs")(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)


def _problem(fixed: Mapping[str, Any], body: bytes) -> str | None:
    try:
        request = json.loads(body)
    except ValueError:
        return None  # the server says what is wrong with it
    if not isinstance(request, dict):
        return None
    asked = _asked(request)
    for name, value in fixed.items():
        if name in asked and asked[name] != value:
            told = f"chat_template_kwargs.{name} is {value!r}, as the model was trained"
            return f"{told}; it cannot be {asked[name]!r}"
    return None


def _asked(request: Mapping[str, Any]) -> dict[str, Any]:
    """What vLLM would hand the template of a request, by `build_chat_params` of its two protocols."""
    given, reasoning = request.get("chat_template_kwargs"), request.get("reasoning")
    asked = dict(given) if isinstance(given, dict) else {}
    of_responses = reasoning.get("effort") if isinstance(reasoning, dict) else None
    effort = request.get("reasoning_effort", of_responses)
    if effort not in UNSET:
        asked.setdefault("enable_thinking", effort != "none")
        asked["reasoning_effort"] = effort
    if request.get("documents") is not None:
        asked["documents"] = request["documents"]
    return asked


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body once more, and then what comes after it: that the client has gone, for one."""
    is_told = False

    async def replay() -> Message:
        nonlocal is_told
        if is_told:
            return await receive()
        is_told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
