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

FIXED = {"date_string": "26 Jul 2024", "reasoning_effort": "low", "enable_thinking": True}


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    await Response(await Request(scope, receive).body())(scope, receive, send)


@pytest.fixture
def app() -> Starlette:
    """With the arguments of its command line where vLLM puts them."""
    app = Starlette(routes=[Mount("/", echo)], middleware=[Middleware(FixedArguments)])
    app.state.args = SimpleNamespace(default_chat_template_kwargs=FIXED)
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
        {"reasoning_effort": "low"},
        {"reasoning_effort": None, "reasoning": {"effort": "auto"}},
        [],
    ],
    ids=["none", "the same", "another", "null", "the same effort", "no effort", "no object"],
)
def test_a_request_that_leaves_them_alone_goes_through_as_it_is(app: Starlette, body: Any) -> None:
    sent = json.dumps(body).encode()
    assert post(app, sent).content == sent
    assert post(app, b"{ no json").content == b"{ no json"


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"chat_template_kwargs": {"date_string": "today"}}, "date_string is '26 Jul 2024'{}'today'"),
        ({"reasoning_effort": "high"}, "reasoning_effort is 'low'{}'high'"),
        ({"reasoning": {"effort": "high"}}, "reasoning_effort is 'low'{}'high'"),
        (
            {"reasoning_effort": "high", "chat_template_kwargs": {"reasoning_effort": "low"}},
            "reasoning_effort is 'low'{}'high'",
        ),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "enable_thinking is True{}False"),
    ],
    ids=["argument", "effort", "of responses", "both", "thinking"],
)
def test_a_request_that_sets_one_otherwise_is_refused_by_name(
    app: Starlette, body: Any, problem: str
) -> None:
    answer = post(app, json.dumps(body).encode())
    assert answer.status_code == 400
    told = problem.format(", as the model was trained; it cannot be ")
    assert answer.json()["error"]["message"] == f"chat_template_kwargs.{told}"


def test_an_effort_turns_thinking_on_or_off(app: Starlette) -> None:
    app.state.args.default_chat_template_kwargs = {"enable_thinking": False}
    assert post(app, b'{"reasoning_effort": "none"}').status_code == 200
    answer = post(app, b'{"reasoning_effort": "low"}')
    assert "enable_thinking is False" in answer.json()["error"]["message"]


def test_documents_may_be_fixed_too(app: Starlette) -> None:
    app.state.args.default_chat_template_kwargs = {"documents": "none"}
    answer = post(app, b'{"documents": [{"text": "a"}]}')
    assert "documents is 'none'" in answer.json()["error"]["message"]
