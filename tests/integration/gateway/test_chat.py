"""What is passed on to the model server, and what is told where that one answers badly or not to the end."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from starlette.testclient import TestClient

from gateway import app
from tests.gateway_client import ALIAS, Project, open_gateway
from tests.openai_endpoint import Endpoint, Reply, serving

QUESTION: Any = [{"role": "user", "content": "Why?"}]


@pytest.fixture(scope="module")
def served() -> Iterator[Endpoint]:
    with serving(Endpoint()) as endpoint:
        yield endpoint


@pytest.fixture
def model_server(served: Endpoint) -> Endpoint:
    served.bodies.clear()
    served.keys.clear()
    served.reply = lambda body: Reply()
    return served


@pytest.fixture(scope="module")
def acme(served: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder: Path = tmp_path_factory.mktemp("gateway")
    with open_gateway(folder, model_server_url=served.base_url) as gateway:
        project = gateway.project("acme")
        with TestClient(gateway.app) as client:  # one loop for all, as the client of the model server has one
            client.headers["Authorization"] = f"Bearer {project.key}"
            yield Project("acme", project.key, client)


@pytest.fixture
def client(acme: Project) -> openai.OpenAI:
    return openai.OpenAI(
        base_url="http://testserver/v1", api_key=acme.key, max_retries=0, http_client=acme.client
    )


def test_a_question_is_passed_on_and_no_key_with_it(model_server: Endpoint, client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=ALIAS, messages=QUESTION, temperature=0, seed=3, stop=["."])
    assert answer.choices[0].message.content == "Yes."
    assert answer.model == ALIAS
    sent = {"messages": QUESTION, "temperature": 0, "seed": 3, "stop": ["."]}
    assert model_server.bodies == [{"model": "smollm2-135m-instruct", **sent}]
    assert model_server.keys == {None}


BAD_ANSWERS: dict[str, tuple[Reply, int, str]] = {
    "hangs up": (Reply(status=0), 502, "does not answer"),
    "ends half-way": (Reply(body=b'{"choices": [', told_length=500), 502, "does not answer"),
    "is no JSON": (Reply(body=b"<html>"), 502, "is no JSON"),
    "is no object": (Reply(body=b"[1]"), 502, "is no JSON"),
    "fails in plain text": (Reply(status=500, body=b"Internal Server Error"), 502, "is no JSON"),
    "fails": (Reply("It broke.", status=500), 502, "It broke."),
    "is not ready": (Reply("No room.", status=503), 503, "No room."),
    "refuses": (Reply("Too long for smollm2-135m-instruct.", status=400), 400, f"Too long for {ALIAS}."),
    "refuses in another way": (Reply("Never.", status=422), 400, "Never."),
    "is overrun": (Reply("Later.", status=429), 429, "Later."),
}


def test_an_idle_connection_is_given_up_before_the_model_server_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "KEPT_S", 0.2)
    with serving(Endpoint()) as endpoint, open_gateway(tmp_path, model_server_url=endpoint.base_url) as made:
        headers = {"Authorization": f"Bearer {made.project('acme').key}"}
        with TestClient(made.app, headers=headers) as client:
            for wait_s, connections in ((0, 1), (0, 1), (0.5, 2)):
                time.sleep(wait_s)
                body = {"model": ALIAS, "messages": QUESTION}
                assert client.post("/v1/chat/completions", json=body).status_code == 200
                assert len(endpoint.connections) == connections


WAYS = [(name, stream) for name in BAD_ANSWERS for stream in (False, True)]


@pytest.mark.parametrize(
    ("name", "stream"),
    # A stream that has begun cannot be refused any more.
    [(name, stream) for name, stream in WAYS if not (stream and BAD_ANSWERS[name][0].status == 200)],
)
def test_a_bad_answer_is_told_as_the_protocol_has_it(
    model_server: Endpoint, client: openai.OpenAI, name: str, stream: bool
) -> None:
    reply, status, told = BAD_ANSWERS[name]
    model_server.reply = lambda body: reply
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model=ALIAS, messages=QUESTION, stream=stream)
    assert caught.value.status_code == status
    assert told in caught.value.message
    assert caught.value.type == ("server_error" if status >= 500 else caught.value.type)


def chunk(text: str) -> str:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    told = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}
    return f"data: {json.dumps(told)}\n\n"


def test_a_stream_that_breaks_off_is_told(model_server: Endpoint, client: openai.OpenAI) -> None:
    said = chunk("One").encode()
    model_server.reply = lambda body: Reply(body=said, told_length=len(said) + 1)
    pieces = client.chat.completions.create(model=ALIAS, messages=QUESTION, stream=True)
    first = next(iter(pieces))
    assert (first.model, first.choices[0].delta.content) == (ALIAS, "One")
    with pytest.raises(openai.APIError, match="model server does not answer"):
        next(iter(pieces))


@pytest.mark.parametrize(
    ("before", "after"),
    [("Why?", r"\ud800"), ('"model"', f'"seed": 1{"0" * 30}, "model"')],
    ids=["half a character", "a number of 100 bits"],
)
def test_what_cannot_be_passed_on_is_refused(acme: Project, before: str, after: str) -> None:
    body = json.dumps({"model": ALIAS, "messages": QUESTION}).replace(before, after)
    headers = {"Content-Type": "application/json"}
    answer = acme.client.post("/v1/chat/completions", content=body, headers=headers)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] == "invalid_json"
