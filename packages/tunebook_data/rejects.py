"""What does not get into a data set, and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
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
        return f"{self.source}:{self.line}: {self.field}: {self.reason} (got {self.value!r})"


def write_rejects(path: Path, rejects: Iterable[Reject]) -> None:
    """Write one JSON object per line, in order."""
    with path.open("wb") as file:
        for reject in rejects:
            file.write(orjson.dumps(asdict(reject), option=orjson.OPT_APPEND_NEWLINE))
