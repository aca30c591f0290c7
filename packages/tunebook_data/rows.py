"""One conversation with its provenance, and the JSONL file that holds many of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from tunebook_model.conversation import FunctionTool, Message
from tunebook_spec.errors import DataError

REPLAY_TASK = "replay"
"""The task of rehearsed rows."""
ACROSS_TASKS = "any task: "
"""Begins the name of a group that rows of several tasks share."""


@dataclass(frozen=True)
class Row:
    """One conversation; the last message is the assistant's and is the reference answer."""

    id: str
    """Unique in a data set; `content_id` of what makes the row, unless the source brings its own."""
    messages: tuple[Message, ...]
    task: str
    group: str
    """Rows of one group stay on one side of every split."""
    source: str
    line: int
    """1-based place in the source."""
    meta: dict[str, Any] = field(default_factory=dict)
    """What a split groups by and a scorer reads, e.g. `terms`, `choices`, `answer`, `stratum`."""
    tools: tuple[FunctionTool, ...] = ()
    """What the model may call."""
    spoken: str | None = None
    """The last turn as the model speaks it, where that is tool calls: their spelling is the model's own."""
    rejected: Message | None = None
    """The answer that the last message is preferred to; None: preferences are not learnt from this row."""

    @property
    def all_messages(self) -> tuple[Message, ...]:
        """Those of the conversation, and the rejected answer."""
        return self.messages if self.rejected is None else (*self.messages, self.rejected)

    @property
    def places(self) -> Iterator[tuple[str, Message]]:
        """All messages, each with what a listing calls its place."""
        yield from ((f"messages[{index}]", message) for index, message in enumerate(self.messages))
        if self.rejected is not None:
            yield "non_preferred_output[0]", self.rejected

    @property
    def counterpart(self) -> Row | None:
        """The same conversation with the rejected answer; None where there is none."""
        if self.rejected is None:
            return None
        messages = (*self.messages[:-1], self.rejected)
        return replace(self, messages=messages, spoken=None, rejected=None)

    @property
    def reference(self) -> str:
        return self.messages[-1]["content"] if self.spoken is None else self.spoken


def identity(
    task: str,
    messages: Iterable[Message],
    tools: Sequence[FunctionTool] = (),
    rejected: Message | None = None,
) -> bytes:
    """What makes a row: equal for rows that teach the same. The ids of calls, which are random, do not."""
    made: list[Any] = [task, [_said(message) for message in messages]]
    if tools or rejected:
        made.append(tools)
    if rejected:
        made.append(_said(rejected))
    return orjson.dumps(made)


def _said(message: Message) -> list[Any]:
    said = [message["role"], message["content"]]
    if "weight" not in message and not message.get("tool_calls"):
        return said
    calls = [each["function"] for each in message.get("tool_calls", ())]
    return [*said, message.get("weight", 1), [[each["name"], each["arguments"]] for each in calls]]


def content_id(
    task: str,
    messages: Iterable[Message],
    tools: Sequence[FunctionTool] = (),
    rejected: Message | None = None,
) -> str:
    """The first 16 hex digits of the SHA-256 over a row's identity."""
    return hashlib.sha256(identity(task, messages, tools, rejected)).hexdigest()[:16]


def write_rows(path: Path, rows: Iterable[Row]) -> int:
    """Write one JSON object per line, in order; return the number of rows."""
    count = 0
    with path.open("wb") as file:
        for row in rows:
            file.write(row_line(row))
            count += 1
    return count


def row_line(row: Row) -> bytes:
    """The line of a row in a row file."""
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def read_rows(path: Path) -> list[Row]:
    """Rows in file order.

    Raises:
        DataError: a line is no JSON object with the fields of a row.
    """
    with path.open("rb") as file:
        return [_decode(path, number, line) for number, line in enumerate(file, start=1)]


def _decode(path: Path, number: int, line: bytes) -> Row:
    try:
        fields = orjson.loads(line)
        return Row(**{**fields, "messages": tuple(fields["messages"]), "tools": tuple(fields["tools"])})
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(f"{path}:{number}: not a row ({error}); write row files with `write_rows`") from error
