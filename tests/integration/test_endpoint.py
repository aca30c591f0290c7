from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from tests.openai_endpoint import Endpoint, Reply, serving
from tunebook_inference import endpoint as module
from tunebook_inference.endpoint import EndpointGenerator
from tunebook_inference.generator import ChatRequest, Completion
from tunebook_spec.errors import StageError

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with serving(Endpoint()) as endpoint:
        yield endpoint


def generator(endpoint: Endpoint, **fields: Any) -> EndpointGenerator:
    known = {"model": "gpt-x", "api_key": SecretStr("sk-secret"), "backoff_s": 0.01, "timeout_s": 5.0}
    return EndpointGenerator(base_url=endpoint.base_url, **{**known, **fields})


def ask(*questions: str, **fields: Any) -> list[ChatRequest]:
    return [ChatRequest(q, ({"role": "user", "content": q},), 8, **fields) for q in questions]


def first_calls(num: int, trouble: Reply) -> Callable[[dict[str, Any]], Reply]:
    """Trouble for the first calls, then answers."""
    left = iter(range(num))
    return lambda body: Reply() if next(left, None) is None else trouble


def test_answers_keep_the_order_asked_and_are_told_as_they_arrive(endpoint: Endpoint) -> None:
    slow = threading.Event()

    def reply(body: dict[str, Any]) -> Reply:
        question = body["messages"][0]["content"]
        if question == "a?":
            assert slow.wait(5)
        return Reply(question.upper())

    endpoint.reply = reply
    told: list[Completion] = []

    def on_done(completion: Completion) -> None:
        told.append(completion)
        if len(told) == 2:
            slow.set()

    answers = generator(endpoint, concurrency=2).generate(ask("a?", "b?", "c?"), on_done)
    assert [(each.id, each.text) for each in answers] == [("a?", "A?"), ("b?", "B?"), ("c?", "C?")]
    assert [each.id for each in told] == ["b?", "c?", "a?"]
    assert answers[0].model == "gpt-x-2026-01-01"
    assert (answers[0].prompt_tokens, answers[0].completion_tokens) == (1, 1)
    assert endpoint.keys == {"Bearer sk-secret"}


def test_no_more_requests_are_under_way_than_allowed(endpoint: Endpoint) -> None:
    endpoint.reply = lambda body: Reply(seconds=0.05)
    generator(endpoint, concurrency=3).generate(ask(*map(str, range(12))), lambda _: None)
    assert endpoint.most_under_way == 3


GARBAGE = b"<html>Bad gateway</html>"
HALF = b'{"id": "chatcmpl-1", "choices": [{"message": {"con'
NO_ANSWER = b'{"id": "chatcmpl-1", "choices": []}'


@pytest.mark.parametrize(
    ("trouble", "counted"),
    [
        (Reply("busy", status=429), "HTTP 429"),
        (Reply("oops", status=500), "HTTP 500"),
        (Reply("oops", status=503, headers={"Retry-After": "0.01"}), "HTTP 503"),
        (Reply(seconds=1.0), "timeout"),
        (Reply(body=GARBAGE), "garbage"),
        (Reply(body=HALF), "garbage"),
        (Reply(body=NO_ANSWER), "garbage"),
        (Reply(body=HALF, told_length=5000), "connection"),
    ],
    ids=["429", "500", "503", "slow", "garbage", "half a JSON", "no answer", "cut off"],
)
def test_a_trouble_that_passes_is_tried_again_and_counted(
    endpoint: Endpoint, trouble: Reply, counted: str
) -> None:
    endpoint.reply = first_calls(2, trouble)
    asked = generator(endpoint, timeout_s=0.5)
    (answer,) = asked.generate(ask("a?"), lambda _: None)
    assert (answer.text, answer.error) == ("Yes.", None)
    assert asked.troubles == {counted: 2}
    assert endpoint.num_calls == 3


@pytest.mark.parametrize(
    "trouble",
    [Reply("oops", status=500), Reply(body=HALF), Reply("busy", status=429)],
    ids=["500", "half a JSON", "429"],
)
def test_a_trouble_that_stays_costs_its_request_and_no_other(endpoint: Endpoint, trouble: Reply) -> None:
    endpoint.reply = lambda body: trouble if body["messages"][0]["content"] == "a?" else Reply()
    failed, answered = generator(endpoint).generate(ask("a?", "b?"), lambda _: None)
    assert failed.finish_reason == "error"
    assert f"at each of {module.MAX_ATTEMPTS} attempts, the last: " in str(failed.error)
    assert answered.text == "Yes."
    assert endpoint.num_calls == module.MAX_ATTEMPTS + 1


def test_an_endpoint_that_is_down_ends_the_work_instead_of_failing_every_row(endpoint: Endpoint) -> None:
    endpoint.reply = lambda body: Reply("down", status=502)
    with pytest.raises(StageError, match="answers no more: 10 requests in a row failed, HTTP 502 at each"):
        generator(endpoint, concurrency=1, backoff_s=0.0).generate(ask(*map(str, range(50))), lambda _: None)
    assert endpoint.num_calls == 10 * module.MAX_ATTEMPTS


def test_retry_after_is_honoured_by_every_request(endpoint: Endpoint) -> None:
    times: list[float] = []
    lock = threading.Lock()

    def reply(body: dict[str, Any]) -> Reply:
        with lock:
            times.append(time.monotonic())
            return Reply("busy", status=429, headers={"Retry-After": "1"}) if len(times) == 1 else Reply()

    endpoint.reply = reply
    generator(endpoint, concurrency=1).generate(ask("a?", "b?"), lambda _: None)
    assert times[1] - times[0] >= 1
    times.clear()
    generator(endpoint, concurrency=3).generate(ask(*map(str, range(12))), lambda _: None)
    early = [at for at in times if at - times[0] < 1]
    assert len(early) <= 5  # those that were under way before the endpoint said so


def test_a_retry_after_beyond_patience_ends_the_work(endpoint: Endpoint) -> None:
    endpoint.reply = lambda body: Reply("come back tomorrow", status=429, headers={"Retry-After": "86400"})
    with pytest.raises(StageError, match=r"asks to wait for 86400 s .*come back tomorrow"):
        generator(endpoint).generate(ask("a?"), lambda _: None)
    assert endpoint.num_calls == 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2", 2.0), ("0.5", 0.5), ("-1", 0.0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("soon", None)],
)
def test_retry_after_may_be_seconds_or_a_date(text: str, seconds: float | None) -> None:
    assert module.retry_after_s({"retry-after": text}) == seconds


def test_retry_after_in_milliseconds_goes_first() -> None:
    assert module.retry_after_s({"retry-after": "2", "retry-after-ms": "150"}) == 0.15


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_refuses_every_request_ends_the_work_at_once_and_shows_no_key(
    endpoint: Endpoint, status: int
) -> None:
    endpoint.reply = lambda body: Reply("no entry for sk-secret", status=status)
    with pytest.raises(
        StageError, match=rf"refuses 'gpt-x': HTTP {status}: .*no entry for \[key\]"
    ) as caught:
        generator(endpoint, concurrency=1).generate(ask("a?", "b?"), lambda _: None)
    assert "sk-secret" not in str(caught.value)
    assert endpoint.num_calls == 1


def test_a_request_that_is_refused_is_not_tried_again(endpoint: Endpoint) -> None:
    endpoint.reply = lambda body: Reply("too long", status=400)
    (failed,) = generator(endpoint).generate(ask("a?"), lambda _: None)
    assert failed.error is not None
    assert failed.error.startswith("HTTP 400: ")
    assert "too long" in failed.error
    assert endpoint.num_calls == 1


@pytest.mark.parametrize(
    "reply", [Reply(refusal="I cannot."), Reply(finish_reason="content_filter")], ids=["refusal", "filter"]
)
def test_a_refused_answer_is_an_error_that_was_paid_for(endpoint: Endpoint, reply: Reply) -> None:
    endpoint.reply = lambda body: reply
    (failed,) = generator(endpoint).generate(ask("a?"), lambda _: None)
    assert failed.finish_reason == "error"
    assert str(failed.error).startswith("refused: ")
    assert failed.completion_tokens == 1


def test_a_schema_is_sent_and_its_refusal_is_said_once(
    endpoint: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    def reply(body: dict[str, Any]) -> Reply:
        return Reply("unknown response_format", status=400) if "response_format" in body else Reply("{}")

    endpoint.reply = reply
    asked = generator(endpoint, concurrency=1)
    answers = asked.generate(ask("a?", "b?", json_schema=SCHEMA), lambda _: None)
    assert [answer.text for answer in answers] == ["{}", "{}"]
    sent = endpoint.bodies[0]["response_format"]
    assert (sent["type"], sent["json_schema"]["schema"]) == ("json_schema", SCHEMA)
    assert ["response_format" in body for body in endpoint.bodies] == [True, False, False]
    assert caplog.text.count("refuses response_format") == 1


def test_a_refused_row_does_not_take_the_schema_from_the_others(endpoint: Endpoint) -> None:
    endpoint.reply = lambda body: (
        Reply("too long", status=400) if body["messages"][0]["content"] == "a?" else Reply("{}")
    )
    failed, _ = generator(endpoint, concurrency=1).generate(
        ask("a?", "b?", json_schema=SCHEMA), lambda _: None
    )
    assert failed.error is not None
    assert "response_format" in endpoint.bodies[-1]


def test_an_endpoint_that_wants_max_completion_tokens_gets_it(endpoint: Endpoint) -> None:
    def reply(body: dict[str, Any]) -> Reply:
        if "max_tokens" in body:
            return Reply("'max_tokens' is not supported: use 'max_completion_tokens'", status=400)
        return Reply()

    endpoint.reply = reply
    answers = generator(endpoint, concurrency=1).generate(ask("a?", "b?"), lambda _: None)
    assert [answer.text for answer in answers] == ["Yes.", "Yes."]
    assert endpoint.bodies[-1]["max_completion_tokens"] == 8
    assert endpoint.num_calls == 3


def test_what_on_done_raises_ends_the_work_after_the_requests_under_way(endpoint: Endpoint) -> None:
    both = threading.Barrier(2)

    def reply(body: dict[str, Any]) -> Reply:
        if body["messages"][0]["content"] in ("0", "1"):
            both.wait(5)
        return Reply(seconds=0.2 if body["messages"][0]["content"] == "1" else 0)

    endpoint.reply = reply
    told: list[str] = []

    def on_done(completion: Completion) -> None:
        told.append(completion.id)
        raise StageError("enough")

    with pytest.raises(StageError, match="enough"):
        generator(endpoint, concurrency=2).generate(ask(*map(str, range(9))), on_done)
    assert sorted(told) == ["0", "1"]
    assert endpoint.num_calls == 2


def test_an_endpoint_that_reports_no_usage_is_refused(endpoint: Endpoint) -> None:
    body = b'{"model": "m", "choices": [{"message": {"content": "Yes."}, "finish_reason": "stop"}]}'
    endpoint.reply = lambda _: Reply(body=body)
    with pytest.raises(StageError, match="reports no usage"):
        generator(endpoint).generate(ask("a?"), lambda _: None)
