"""Writes what clients asked and were answered, a line each, personal data masked."""

from __future__ import annotations

import errno
import json
import mmap
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import orjson

from model_server.traffic import Log
from tunebook_data.personal_data import scan
from tunebook_run.traffic_log import LoggedAnswer, LoggedMessage
from tunebook_spec.errors import InputError

_ERROR_CHARS = 300


@dataclass(frozen=True)
class Question:
    """A request that is to be logged, with all that answer it."""

    id: str
    asked: str
    """The name that the client asked for."""
    messages: Sequence[Mapping[str, Any]]
    """Of text, as `is_text` has it."""
    started: float
    """By `time.monotonic`."""


def is_text(asked: Mapping[str, Any]) -> bool:
    """Whether a request is a chat of plain text with one answer: nothing else is logged."""
    messages = asked.get("messages")
    return (
        isinstance(messages, list)
        and bool(messages)
        and all(map(_says_text_alone, messages))
        and not asked.get("tools")
        and asked.get("n") in (None, 1)
    )


def _says_text_alone(message: object) -> bool:
    return (
        isinstance(message, dict)
        and all(isinstance(message.get(field), str) for field in ("role", "content"))
        and not any(value for field, value in message.items() if field not in ("role", "content", "name"))
    )


class AnswerLog:
    """Adds lines to a file; each is whole once `add` returns.

    Raises:
        InputError: there can be no such file.
    """

    def __init__(self, log: Log, folder: Path) -> None:
        self._log = log
        self.path = folder / log.path
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = self.path.open("a+b", buffering=0)
        except OSError as error:
            raise InputError(f"log {self.path}: cannot be written ({error.strerror or error})") from None
        self._drop_half_a_line()

    def add(self, question: Question, model: str, *, is_shadow: bool, status: int, body: bytes) -> str:
        """Log one answer, in the body of a response; what became of it: logged, masked or dropped.

        Raises:
            OSError: it cannot be written; nothing of it was.
        """
        said = _read(status, body)
        messages = [LoggedMessage(role=each["role"], content=each["content"]) for each in question.messages]
        masked: tuple[str, ...] = ()
        if self._log.personal_data != "keep":
            mask = _Mask()
            messages = [LoggedMessage(role=each.role, content=mask(each.content)) for each in messages]
            said |= {part: mask(said[part]) for part in ("text", "error") if said[part]}
            masked = tuple(mask.rules)
            if masked and self._log.personal_data == "drop":
                return "dropped"
        if said["error"]:
            said["error"] = said["error"][:_ERROR_CHARS]
        seconds = time.monotonic() - question.started
        row = LoggedAnswer(
            id=question.id,
            at=datetime.fromtimestamp(time.time() - seconds, UTC).isoformat(timespec="milliseconds"),
            asked=question.asked,
            model=model,
            is_shadow=is_shadow,
            messages=tuple(messages),
            seconds=round(seconds, 3),
            masked=masked,
            **said,
        )
        self._write(orjson.dumps(row.model_dump(), option=orjson.OPT_APPEND_NEWLINE))
        return "masked" if masked else "logged"

    def _write(self, line: bytes) -> None:
        """All of it, or nothing: half a line would spoil the next one."""
        size = os.fstat(self._file.fileno()).st_size
        if (written := self._file.write(line)) != len(line):
            self._file.truncate(size)
            raise OSError(errno.ENOSPC, f"took {written} of {len(line)} bytes")

    def _drop_half_a_line(self) -> None:
        """What a server that was killed may have left."""
        if os.fstat(self._file.fileno()).st_size:
            with mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) as lines:
                end = lines.rfind(b"\n") + 1
            self._file.truncate(end)

    def close(self) -> None:
        self._file.close()


@dataclass
class _Mask:
    """Takes personal data out of texts, and keeps the rules that found any."""

    rules: dict[str, None] = field(default_factory=dict)

    def __call__(self, text: str) -> str:
        masked, found = scan(text)
        self.rules |= dict.fromkeys(found)
        return masked


def _read(status: int, body: bytes) -> dict[str, Any]:
    """What a chat completion says, whole or as a stream."""
    if status != 200:
        return _failed(f"HTTP {status}: {body.decode(errors='replace')}")
    try:
        chunks = list(_chunks(body))
    except ValueError:
        return _failed(f"no chat completion but {body.decode(errors='replace')}")
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
        "error": None,
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
