"""Training data as the protocol wants it: JSON lines of messages, or of preferences, every line checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from tunebook_data.formats import recognise
from tunebook_data.records import line_record
from tunebook_data.rejects import Reject
from tunebook_data.scan import scan
from tunebook_data.sources import LineFile
from tunebook_spec.data import Checks, Split
from tunebook_spec.errors import DataError

MIN_EXAMPLES = 10
TASK = "chat"
CHECKS = Checks(
    min_response_chars=1,
    max_response_chars=10_000_000,
    damaged_text="allow",
    refusals="allow",
    personal_data="allow",
    on_too_long="truncate_left",
)
"""What people upload is theirs to judge: only what could not be trained on is a fault."""
_SHOWN = 10

TrainingFormat = Literal["messages", "preference"]


@dataclass(frozen=True)
class TrainingFile:
    row_format: TrainingFormat
    num_rows: int


class TrainingFileError(DataError):
    """Names lines, fields, values; the first ten of them."""


def check_training_file(path: Path) -> TrainingFile:
    """Check every line of a file.

    Raises:
        TrainingFileError: some cannot be trained on.
    """
    form = _format(path)
    # The name of the upload itself says nothing: it lies under a name of its own.
    lines = LineFile("line", str(path), form, TASK, Split(), None, form == "preference")
    scanned = scan(lines, CHECKS)
    if scanned.rejects:
        raise TrainingFileError(_told(scanned.rejects))
    if not scanned.num_records:
        raise TrainingFileError("Invalid file format. The file has no examples.")
    return TrainingFile(form, scanned.num_records)


def _format(path: Path) -> TrainingFormat:
    """By the first line that is an object; where none is, any tells the faults."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            record = line_record(line, is_first=number == 1)
            if isinstance(record, dict) and "input" in record:
                return "preference"
            if isinstance(record, dict) and recognise(record) in ("messages", "preference"):
                return cast(TrainingFormat, recognise(record))
    return "messages"


def _told(rejects: Sequence[Reject]) -> str:
    shown = [
        f"Line {each.line}{f', {each.field}' if each.field else ''}: {each.reason} (got {each.value!r})."
        for each in rejects[:_SHOWN]
    ]
    more = len(rejects) - len(shown)
    return " ".join(["Invalid file format.", *shown, *([f"{more} more lines have faults."] if more else [])])
