from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import SecretStr

from tests.openai_endpoint import Endpoint, serving
from tunebook_inference.find_served import find_served
from tunebook_inference.served import Served
from tunebook_run.settings import ModelSettings
from tunebook_spec.errors import InputError

SETTINGS = ModelSettings(api_key=SecretStr("sk-1"), concurrency=5)


def card(name: str, **more: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "us", **more}


def find(endpoint: Endpoint, model: str = "tiny@3", revision: str | None = None) -> Served:
    return find_served(endpoint.base_url, model, SETTINGS, concurrency=None, revision=revision)


def test_it_is_told_by_name_host_and_what_lies_behind_the_name() -> None:
    with serving(Endpoint(models=[card("tiny@3", root="/stages/merge-a/model")])) as endpoint:
        one = find(endpoint)
        endpoint.models = [card("tiny@3", root="/stages/merge-b/model")]
        other = find(endpoint)
        host = endpoint.base_url.removeprefix("http://")
    assert one.who.startswith(f"tiny@3 at {host} (")
    assert "stages" not in one.who, "no artifact names a machine's folders"
    assert one.who != other.who
    assert endpoint.keys == {"Bearer sk-1"}


def test_where_models_are_not_listed_or_have_no_root_a_revision_tells_them_apart() -> None:
    with serving(Endpoint()) as endpoint:
        one, other = find(endpoint), find(endpoint, revision="two")
        endpoint.models = [card("tiny@3")]
        assert find(endpoint) == one
    assert other.who == f"{one.who} revision two"


def test_a_name_that_is_not_served_lists_those_that_are() -> None:
    with serving(Endpoint(models=[card("b"), card("a")])) as endpoint:
        with pytest.raises(InputError, match=r"serves no 'tiny@3'; it serves: a, b"):
            find(endpoint)


def test_an_endpoint_that_refuses_or_is_not_there_is_told() -> None:
    with serving(Endpoint(models=401)) as endpoint:
        with pytest.raises(InputError, match=r"HTTP 401; set TUNEBOOK_MODELS__TUNED__API_KEY"):
            find(endpoint)
        endpoint.models = 400
        with pytest.raises(InputError, match=r"HTTP 400$"):
            find(endpoint)
    quick = SETTINGS.model_copy(update={"timeout_s": 1.0})
    with pytest.raises(InputError, match="cannot be reached"):
        find_served("http://127.0.0.1:9/v1", "a", quick, concurrency=None, revision=None)


class Page(BaseHTTPRequestHandler):
    """Of a server that has a page for every address."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html>")

    def log_message(self, *_: object) -> None:
        pass


def test_an_address_of_pages_is_no_endpoint() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(InputError, match=r"does not speak the OpenAI protocol.*<!doctype html>.*in /v1"):
            find_served(url, "a", SETTINGS, concurrency=None, revision=None)
        server.shutdown()


@pytest.mark.parametrize("url", ["localhost:8000", "http://key@host/v1"], ids=["no scheme", "secret"])
def test_a_url_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="--endpoint "):
        find_served(url, "a", SETTINGS, concurrency=None, revision=None)


@pytest.mark.parametrize(
    ("url", "is_remote"),
    [
        ("http://127.0.0.1:8000/v1", False),
        ("http://localhost/v1", False),
        ("http://[::1]:8000/v1", False),
        ("http://10.0.0.1:8000/v1", True),
        ("https://api.openai.com/v1", True),
    ],
)
def test_this_machine_alone_is_not_elsewhere(url: str, is_remote: bool) -> None:
    assert Served(base_url=url, model="a", who="a").is_remote == is_remote


def test_it_keeps_the_settings_of_its_role_but_for_its_place_and_pace() -> None:
    served = Served(base_url="http://localhost/v1", model="a", who="a", concurrency=64)
    found = served.settings(SETTINGS)
    assert (found.base_url, found.concurrency, found.api_key) == ("http://localhost/v1", 64, SETTINGS.api_key)
    assert served.model_copy(update={"concurrency": None}).settings(SETTINGS).concurrency == 5
