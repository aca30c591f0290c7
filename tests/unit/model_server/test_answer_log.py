from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from model_server.answer_log import AnswerLog, Question, is_text
from model_server.traffic import Log
from tunebook_run.traffic_log import LoggedAnswer, LoggedMessage, read_log
from tunebook_spec.errors import DataError, InputError

LONG_AGO_S = 1e6
"""Beside it the time of a test is nothing."""
USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}


def whole(text: str) -> bytes:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], "usage": USAGE}).encode()


def stream(*pieces: str, end: str | None = "length") -> bytes:
    chunks: list[dict[str, Any]] = [{"choices": [{"delta": {"content": piece}}]} for piece in pieces]
    chunks[-1]["choices"][0]["finish_reason"] = end
    chunks.append({"choices": [], "usage": USAGE})
    return b"".join(f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks) + b"data: [DONE]\n\n"


def logged(
    folder: Path, body: bytes, *, status: int = 200, content: str = "Hi", name: str = "", **settings: Any
) -> tuple[str, list[LoggedAnswer]]:
    log = AnswerLog(Log(path="a/log.jsonl", **settings), folder)
    message = {"role": "user", "content": content, "name": name}
    question = Question("1", "medical", [message], time.monotonic() - LONG_AGO_S)
    outcome = log.add(question, "medical@2", is_shadow=True, status=status, body=body)
    log.close()
    return outcome, read_log(folder / "a" / "log.jsonl")


@pytest.mark.parametrize(
    ("body", "text", "end"),
    [(whole("Hello you"), "Hello you", "stop"), (stream("Hel", "lo you"), "Hello you", "length")],
    ids=["whole", "stream"],
)
def test_an_answer_is_kept_with_its_question(tmp_path: Path, body: bytes, text: str, end: str) -> None:
    outcome, (row,) = logged(tmp_path, body)
    assert outcome == "logged"
    assert (row.text, row.finish_reason, row.prompt_tokens, row.completion_tokens) == (text, end, 7, 2)
    assert (row.asked, row.model, row.is_shadow) == ("medical", "medical@2", True)
    assert row.messages == (LoggedMessage(role="user", content="Hi"),)
    assert row.seconds == pytest.approx(LONG_AGO_S, rel=1e-3)
    assert row.error is None


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b'{"error": "busy"}', 503, 'HTTP 503: {"error": "busy"}'),
        (stream("a", end=None), 200, "has no end"),
        (b"data: {", 200, "no chat completion but data: {"),
    ],
    ids=["refused", "cut", "no JSON"],
)
def test_a_failed_answer_is_kept_as_one(tmp_path: Path, body: bytes, status: int, error: str) -> None:
    _, (row,) = logged(tmp_path, body, status=status)
    assert error in (row.error or "")
    assert (row.finish_reason, row.text) == ("error", "")


def test_personal_data_are_masked_in_question_and_answer(tmp_path: Path) -> None:
    body = whole("Write to john.doe@acme.org.")
    outcome, (row,) = logged(tmp_path, body, content="I am jane.doe@acme.org, 4111 1111 1111 1111")
    assert outcome == "masked"
    assert row.messages[0].content == "I am [EMAIL], [CREDIT_CARD]"
    assert row.text == "Write to [EMAIL]."
    assert set(row.masked) == {"email", "credit_card"}
    assert "acme" not in (tmp_path / "a" / "log.jsonl").read_text()


def test_what_an_engine_repeats_of_a_request_that_it_refuses_is_masked(tmp_path: Path) -> None:
    refusal = b"x" * 290 + b" no model for jane.doe@acme.org"
    outcome, (row,) = logged(tmp_path, refusal, status=400)
    assert (outcome, row.masked) == ("masked", ("email",))
    assert "jane" not in (tmp_path / "a" / "log.jsonl").read_text()
    assert logged(tmp_path / "b", refusal, status=400, personal_data="drop") == ("dropped", [])


@pytest.mark.parametrize("personal_data", ["mask", "keep"])
def test_of_a_message_role_and_content_alone_are_logged(tmp_path: Path, personal_data: str) -> None:
    logged(tmp_path, whole("a"), name="jane.doe@acme.org", personal_data=personal_data)
    assert "jane" not in (tmp_path / "a" / "log.jsonl").read_text()


def test_personal_data_may_be_kept_or_their_answers_dropped(tmp_path: Path) -> None:
    content = "I am jane.doe@acme.org"
    assert logged(tmp_path, whole("a"), content=content, personal_data="drop") == ("dropped", [])
    outcome, (row,) = logged(tmp_path, whole("a"), content=content, personal_data="keep")
    assert (outcome, row.messages[0].content) == ("logged", content)


def test_a_log_is_added_to_and_a_half_written_line_is_no_answer(tmp_path: Path) -> None:
    logged(tmp_path, whole("one"))
    _, rows = logged(tmp_path, whole("two"))
    assert [row.text for row in rows] == ["one", "two"]
    path = tmp_path / "a" / "log.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    assert [row.text for row in read_log(path)] == ["one"]
    _, rows = logged(tmp_path, whole("three"))
    assert [row.text for row in rows] == ["one", "three"]
    path.write_text(path.read_text().replace('[{"role":"user","content":"Hi"}]', "[]"))
    with pytest.raises(DataError, match=r"log\.jsonl:1: is no answer .* \(messages: .* at least 1 item"):
        read_log(path)
    path.write_text('{"id": 1}\n')
    with pytest.raises(DataError, match=r"log\.jsonl:1: is no answer that a server logged \(id: "):
        read_log(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_log(tmp_path / "none")


def test_a_file_that_cannot_be_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(InputError, match=r"a/log\.jsonl: cannot be written \("):
        AnswerLog(Log(path="a/log.jsonl"), tmp_path)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}, False),
        ({"messages": "a"}, False),
        ({"messages": []}, False),
        ({"messages": [{"content": "a"}]}, False),
        ({"messages": [{"role": "user", "content": "a", "name": "jane", "tool_calls": None}]}, True),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}, False),
        ({"tools": [{}]}, False),
        ({"n": 2}, False),
    ],
    ids=["text", "parts", "no list", "none", "no role", "name", "calls", "tools", "several"],
)
def test_only_chats_of_plain_text_are_logged(change: dict[str, Any], expected: bool) -> None:
    assert is_text({"messages": [{"role": "user", "content": "a"}], **change}) == expected
