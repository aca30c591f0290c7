"""Writes what clients asked and were answered, a line each, personal data masked."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import orjson

from model_server.traffic import Log
from tunebook_data.personal_data import scan
from tunebook_run.traffic_log import LoggedAnswer


@dataclass(frozen=True)
class Question:
    """A request that is to be logged, with all that answer it."""

    id: str
    asked: str
    """The name that the client asked for."""
    messages: Sequence[Mapping[str, Any]]
    started: float
    """By `time.monotonic`."""


def is_text(asked: Mapping[str, Any]) -> bool:
    """Whether a request is a chat of plain text with one answer: nothing else is logged."""
    messages = asked.get("messages")
    return (
        isinstance(messages, list)
        and all(isinstance(each, dict) and isinstance(each.get("content"), str) for each in messages)
        and not asked.get("tools")
        and asked.get("n") in (None, 1)
    )


class AnswerLog:
    """Adds lines to a file; each is whole once `add` returns."""

    def __init__(self, log: Log, folder: Path) -> None:
        self._log = log
        self._path = folder / log.path
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = self._path.open("ab", buffering=0)

    def add(self, question: Question, model: str, *, is_shadow: bool, status: int, body: bytes) -> str:
        """Log one answer, in the body of a response; what became of it: logged, masked or dropped."""
        said = _read(status, body)
        messages = [dict(each) for each in question.messages]
        masked: tuple[str, ...] = ()
        if self._log.personal_data != "keep":
            messages, said["text"], masked = _mask(messages, said["text"])
            if masked and self._log.personal_data == "drop":
                return "dropped"
        seconds = time.monotonic() - question.started
        row = LoggedAnswer(
            id=question.id,
            at=datetime.fromtimestamp(time.time() - seconds, UTC).isoformat(timespec="milliseconds"),
            asked=question.asked,
            model=model,
            is_shadow=is_shadow,
            messages=messages,
            seconds=round(seconds, 3),
            masked=masked,
            **said,
        )
        self._file.write(orjson.dumps(row.model_dump(), option=orjson.OPT_APPEND_NEWLINE))
        return "masked" if masked else "logged"

    def close(self) -> None:
        self._file.close()


def _mask(messages: list[dict[str, Any]], text: str) -> tuple[list[dict[str, Any]], str, tuple[str, ...]]:
    """Both without personal data, and the rules that found any."""
    rules: dict[str, None] = {}
    for each in messages:
        each["content"], found = scan(each["content"])
        rules |= dict.fromkeys(found)
    text, found = scan(text)
    rules |= dict.fromkeys(found)
    return messages, text, tuple(rules)


def _read(status: int, body: bytes) -> dict[str, Any]:
    """What a chat completion says, whole or as a stream."""
    if status != 200:
        return _failed(f"HTTP {status}: {body[:300].decode(errors='replace')}")
    chunks = list(_chunks(body))
    choices = [choice for chunk in chunks for choice in chunk.get("choices", ())]
    if not choices or choices[-1].get("finish_reason") is None:
        return _failed("the answer has no end")
    parts = [choice.get("delta") or choice.get("message") or {} for choice in choices]
    usage: dict[str, Any] = next((each for c in reversed(chunks) if (each := c.get("usage"))), {})
    return {
        "text": "".join(part.get("content") or "" for part in parts),
        "finish_reason": choices[-1]["finish_reason"],
        "prompt_tokens": usage.get("prompt_tokens"),
        "completion_tokens": usage.get("completion_tokens"),
    }


def _failed(error: str) -> dict[str, Any]:
    return {
        "text": "",
        "finish_reason": "error",
        "prompt_tokens": None,
        "completion_tokens": None,
        "error": error,
    }


def _chunks(body: bytes) -> Iterator[dict[str, Any]]:
    """The JSON of a response, or of each event of a stream."""
    if not body.startswith(b"data:"):
        yield json.loads(body)
        return
    for line in body.splitlines():
        content = line.removeprefix(b"data:").strip()
        if line.startswith(b"data:") and content != b"[DONE]":
            yield json.loads(content)
