"""What does not get into a data set, and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from tunebook_data.rows import Row

_EXCERPT_CHARS = 200


@dataclass(frozen=True)
class Fault:
    """What is wrong with a row."""

    field: str
    """Where in the row, e.g. `messages[2].content`."""
    reason: str
    """The same words for every row with this fault: rejects are counted by it."""
    value: Any = None
    """What was found there."""


@dataclass(frozen=True, slots=True)
class Reject:
    source: str
    line: int
    """1-based place in the source."""
    field: str
    reason: str
    value: str
    """Excerpt of what was found."""

    @classmethod
    def of(cls, source: str, line: int, fault: Fault) -> Reject:
        text = fault.value if isinstance(fault.value, str) else repr(fault.value)
        short = text if len(text) <= _EXCERPT_CHARS else f"{text[:_EXCERPT_CHARS]}..."
        return cls(source, line, fault.field, fault.reason, short)

    @classmethod
    def of_row(cls, row: Row, fault: Fault) -> Reject:
        return cls.of(row.source, row.line, fault)

    def __str__(self) -> str:
        field = f"{self.field}: " if self.field else ""
        return f"{self.source}:{self.line}: {field}{self.reason} (got {self.value!r})"


@dataclass(frozen=True, slots=True)
class Flag:
    """What is to be looked at in a row that is kept, or what was changed in it; findings are not quoted."""

    source: str
    line: int
    field: str
    reason: str
    """The same words for every row with this finding: flags are counted by it."""

    @classmethod
    def of_row(cls, row: Row, fault: Fault) -> Flag:
        return cls(row.source, row.line, fault.field, fault.reason)


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A row left out because it repeats another one, which stays."""

    source: str
    line: int
    kind: Literal["exact", "near"]
    copy_of_source: str
    copy_of_line: int
    similarity: float
    """Jaccard similarity of word 3-shingles; 1 for equal conversations."""

    @property
    def copy_of(self) -> tuple[str, int]:
        return self.copy_of_source, self.copy_of_line


@dataclass(frozen=True, slots=True)
class Leak:
    """A training row left out because it contains what evaluation or validation asks."""

    source: str
    line: int
    item: str
    """What is held out: a row of the test or validation split, a suite's item, a question, a text."""
    rule: Literal["exact", "ngram", "near"]
    overlap: float
    """1 for `exact`, the share of the item's words for `ngram`, the Jaccard similarity for `near`."""


Outcome = Literal["kept", "rejected", "copy", "contaminated"]


@dataclass(frozen=True)
class Fate:
    """What became of a row that a model wrote."""

    id: str
    source: str
    line: int
    """Of the row that it was made from."""
    outcome: Outcome
    reason: str
    """The same words for every row with this fate; empty for one that is kept."""
    detail: str

    @classmethod
    def of(cls, row: Row, outcome: Outcome, reason: str = "", detail: str = "") -> Fate:
        return cls(row.id, row.source, row.line, outcome, reason, detail)


@dataclass(frozen=True)
class Failure:
    """A question to a model, asked about a row, of whose answer no row could be made."""

    source: str
    line: int
    reason: str
    answers: tuple[str, ...]
    """All that it said: its answer, and the repaired one."""


def write_listing(path: Path, entries: Iterable[Reject | Flag | Duplicate | Leak | Fate | Failure]) -> None:
    """Write one JSON object per line, in order."""
    with path.open("wb") as file:
        for entry in entries:
            file.write(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))
