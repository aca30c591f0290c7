from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send

from model_server.fixed_arguments import FixedArguments


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    await Response(await Request(scope, receive).body())(scope, receive, send)


@pytest.fixture
def app() -> Starlette:
    """With the arguments of its command line where vLLM puts them."""
    app = Starlette(routes=[Mount("/", echo)], middleware=[Middleware(FixedArguments)])
    app.state.args = SimpleNamespace(default_chat_template_kwargs={"date_string": "26 Jul 2024"})
    return app


def post(app: Starlette, body: bytes) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            return await client.post("/v1/chat/completions", content=body)

    return asyncio.run(ask())


@pytest.mark.parametrize(
    "body",
    [
        {"model": "a"},
        {"chat_template_kwargs": {"date_string": "26 Jul 2024"}},
        {"chat_template_kwargs": {"other": 1}},
        {"chat_template_kwargs": None},
        [],
    ],
    ids=["none", "the same", "another", "null", "no object"],
)
def test_a_request_that_leaves_them_alone_goes_through_as_it_is(app: Starlette, body: Any) -> None:
    sent = json.dumps(body).encode()
    assert post(app, sent).content == sent
    assert post(app, b"{ no json").content == b"{ no json"


def test_a_request_that_sets_one_otherwise_is_refused_by_name(app: Starlette) -> None:
    answer = post(app, json.dumps({"chat_template_kwargs": {"date_string": "today"}}).encode())
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == (
        "chat_template_kwargs.date_string is '26 Jul 2024', as the model was trained; it cannot be 'today'"
    )
