"""The lines of a JSONL file, judged many at a time, and on all cores where the file is big.

Most rows of a real file are plainly good: known roles in turn, text alone, nothing that any check looks for.
For these a line is decoded, judged and hashed without a row ever being made of it. Every other line goes
through the very functions that judge a row of any other file, so that both ways say the same of every line.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from xxhash import xxh3_128_digest

from tunebook_data.checks import judged
from tunebook_data.digest import SEPARATOR, digest
from tunebook_data.formats import TOOL_FIELDS
from tunebook_data.lazy_rows import Rows, as_array
from tunebook_data.plain_lines import Numbers, plain_lines
from tunebook_data.rejects import Flag, Reject
from tunebook_data.rows import Row
from tunebook_data.sources import LineFile
from tunebook_data.workers import HERE, Workers
from tunebook_model.conversation import Message, Role
from tunebook_spec.data import Checks

RANGE_BYTES = 16 << 20
"""What one call of a worker reads."""
POOL_RANGES = 4
"""A smaller file is done before a second process would have begun."""
LOOKED_AT_BYTES = 16 << 20
"""The lines of a smaller file are all judged as rows before the loops that look at them would be there."""
_BLOCK_BYTES = 1 << 18


@dataclass
class Scanned:
    """What stands in a run of lines; line numbers count from its start."""

    rows: Rows
    num_lines: int = 0
    num_records: int = 0
    num_parsed: int = 0
    """Of the records, those that hold a conversation, whatever else may be wrong with it."""
    prompts: list[Row] = field(default_factory=list)
    """Rows without an answer, where those are taken."""
    rejects: list[Reject] = field(default_factory=list)
    flags: list[Flag] = field(default_factory=list)


def scan(file: LineFile, checks: Checks, workers: Workers = HERE) -> Scanned:
    """Every record of a file, judged.

    Raises:
        DataError: the file cannot be read.
    """
    num_bytes = os.path.getsize(file.place)
    clean = _CleanLines(file, checks, may_be=num_bytes >= LOOKED_AT_BYTES)
    starts = range(0, num_bytes, RANGE_BYTES)
    ranges = [range(start, start + RANGE_BYTES) for start in starts]
    if workers.are_here:
        return _joined([*workers.map(partial(_scan_range, clean), ranges, pool_from=POOL_RANGES)])
    contents = (_read_range(file, places) for places in ranges)
    return _joined([*workers.map(partial(_scan_lines, clean), contents, pool_from=POOL_RANGES)])


def _joined(parts: Sequence[Scanned]) -> Scanned:
    before = 0
    whole = Scanned(Rows.of(()))
    rows = []
    for part in parts:
        rows.append(part.rows.further_down(before))
        whole.rejects += [replace(reject, line=reject.line + before) for reject in part.rejects]
        whole.flags += [replace(flag, line=flag.line + before) for flag in part.flags]
        whole.num_records += part.num_records
        whole.num_parsed += part.num_parsed
        before += part.num_lines
    return replace(whole, rows=Rows.joined(rows), num_lines=before)


def _scan_range(clean: _CleanLines, places: range) -> Scanned:
    """The lines that begin in a range of the file."""
    with open(clean.file.place, "rb") as stream:
        offset = _first_line(stream, places.start)
        return _scan_blocks(clean, offset, _blocks(stream, places.stop - offset))


def _read_range(file: LineFile, places: range) -> tuple[int, bytes]:
    """The lines that begin in a range of the file, and where the first of them begins."""
    with open(file.place, "rb") as stream:
        offset = _first_line(stream, places.start)
        return offset, b"".join(_blocks(stream, places.stop - offset))


def _scan_lines(clean: _CleanLines, lines: tuple[int, bytes]) -> Scanned:
    """Whole lines that were read already, and where the first of them begins in the file."""
    offset, content = lines
    return _scan_blocks(clean, offset, _blocks(io.BytesIO(content), len(content)))


def _scan_blocks(clean: _CleanLines, offset: int, blocks: Iterator[bytes]) -> Scanned:
    made = Scanned(Rows.of(()))
    parts: list[Rows] = []
    for block in blocks:
        parts.append(_scan_block(block, offset, clean, made))
        offset += len(block)
    return replace(made, rows=Rows.joined(parts))


def _first_line(stream: BinaryIO, start: int) -> int:
    """Goes to the first line that begins at or after a place, and tells where that is."""
    if start:
        stream.seek(start - 1)
        stream.readline()
    return stream.tell()


def _blocks(stream: BinaryIO, num_bytes: int) -> Iterator[bytes]:
    """Whole lines, some MiB at a time, of which the last begins within the number of bytes."""
    while num_bytes > 0 and (data := stream.read(min(num_bytes, _BLOCK_BYTES))):
        block = data if data.endswith(b"\n") else data + stream.readline()
        yield block
        num_bytes -= len(block)


def _scan_block(block: bytes, offset: int, clean: _CleanLines, made: Scanned) -> Rows:
    """The rows of a block of whole lines, which lies at an offset of the file; `made` gets all else."""
    file, checks = clean.file, clean.checks
    starts, ends, digests = clean.digests(block)
    rows: dict[int, Row] = {}
    for index in [index for index, found in enumerate(digests) if found is None] if None in digests else ():
        line = block[starts[index] : ends[index]]
        item = file.item(made.num_lines + index + 1, line, is_first=offset == index == 0)
        if item is None:
            made.num_records -= 1
            made.num_parsed -= 1
            continue
        made.num_parsed -= isinstance(item, Reject)
        outcome = judged(item, checks)
        if isinstance(outcome, Reject):
            made.rejects.append(outcome)
        else:
            row, flags = outcome
            digests[index] = digest(row)
            made.flags += flags
            if row is not item:
                rows[index] = row
    numbers = np.arange(len(digests)) + made.num_lines + 1
    kept = np.arange(len(digests))
    if None in digests:
        kept = np.flatnonzero([found is not None for found in digests])
    made.num_lines += len(digests)
    made.num_records += len(digests)
    made.num_parsed += len(digests)
    where = {int(index): at for at, index in enumerate(kept)} if rows else {}
    return Rows(
        (file,),
        np.zeros(len(kept), np.intp),
        np.stack([offset + starts, ends - starts, numbers], axis=1)[kept],
        as_array([found for found in digests if found is not None]),
        {where[index]: row for index, row in rows.items()},
    )


_SPACE = r"(?:\s|\\[nrt])+"
# Each finds every line in which a rule of `personal_data` or `checks.refusal` finds something, and some more.
_PERSONAL = (
    r"@|PRIVATE KEY|AKIA|ASIA|gh[pousr]_|github_pat_|glpat-|AIza|hf_|npm_|sk-|xox|[rs]k_live_|eyJ"
    r"|[A-Z]{2}[0-9]{2}|(?:[0-9][ -]?){12}[0-9]|[0-9]{3}-[0-9]{2}-[0-9]{4}|\+[0-9]"
    r"|[0-9]{3}(?:\) ?|[-. ])[0-9]{3}[-.][0-9]{4}"
)
_REFUSAL = (
    r"(?i:sorry|afraid|apologi|unfortunately|(?:can't|cannot|not|won't)SPACE(?:assist|comply|fulfil|help)"
    r"|languageSPACEmodel|aiSPACEassistant|artificialSPACEintelligence|justSPACEanSPACEai"
    r"|knowledgeSPACEcutoff|trainingSPACEdataSPACEonly)"
).replace("SPACE", _SPACE)


class _CleanLines:
    """Knows the lines of a file that hold a row of which no check has anything to say, if it may know any."""

    def __init__(self, file: LineFile, checks: Checks, *, may_be: bool) -> None:
        self.file, self.checks = file, checks
        scans = [_PERSONAL] * (checks.personal_data != "allow") + [_REFUSAL] * (checks.refusals != "allow")
        self._scanned_for = "|".join(scans)
        self._heads = _Heads(file.task, file.system)
        self._may_be = (
            may_be
            and file.form == "messages"
            and file.task not in checks.answer_schema
            and file.split.group_by not in ("", "messages", *TOOL_FIELDS)
            and self._system_is_clean()
        )

    def _system_is_clean(self) -> bool:
        """Whether no check has anything to say of the system message that rows without one are given."""
        if self.file.system is None:
            return True
        roles: tuple[Role, ...] = ("system", "user", "assistant")
        contents = (self.file.system, "x", "x" * self.checks.min_response_chars)
        messages = tuple(Message(role=role, content=text) for role, text in zip(roles, contents, strict=True))
        row = Row("", messages, self.file.task, "", "", 0)
        return judged(row, self.checks) == (row, []) and "\0" not in self.file.system

    def digests(self, block: bytes) -> tuple[Numbers, Numbers, list[bytes | None]]:
        """Where each line begins and ends, and the digest of its row if it is such a one."""
        ended = block if block.endswith(b"\n") else block + b"\n"
        if not self._may_be:
            ends = np.flatnonzero(np.frombuffer(ended, np.uint8) == ord("\n"))
            return _starts(ends), ends, [None] * len(ends)
        shortest, longest = self.checks.min_response_chars, self.checks.max_response_chars
        found = plain_lines(ended, self.file.split.group_by, shortest, longest)
        starts = _starts(found.ends_L)
        made: list[bytes | None] = [None] * len(starts)
        is_clean = found.num_messages_L > 0
        if self._scanned_for:
            is_clean &= ~found.is_odd_L
            is_clean &= ~self._found(ended, starts)
        lines = np.flatnonzero(is_clean)
        heads = found.num_messages_L[lines] * 2 + found.has_system_L[lines]
        text_starts = np.concatenate([[0], found.text_ends_L[:-1]])[lines]
        texts, head = found.texts.data, self._heads
        columns = lines.tolist(), heads.tolist(), text_starts.tolist(), found.text_ends_L[lines].tolist()
        for line, kind, start, end in zip(*columns, strict=True):
            made[line] = xxh3_128_digest(head[kind] + texts[start:end])
        return starts, found.ends_L, made

    def _found(self, block: bytes, starts: Numbers) -> npt.NDArray[np.bool_]:
        offsets = np.append(starts, len(block))
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(block)]
        array = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(starts), buffers)
        found: npt.NDArray[np.bool_] = pc.match_substring_regex(array, self._scanned_for).to_numpy(False)
        return found


def _starts(ends: Numbers) -> Numbers:
    return np.concatenate([[0], ends[:-1] + 1])


class _Heads(dict[int, bytes]):
    """What the digest of a row begins with, by twice its messages, and one more with a system message."""

    def __init__(self, task: str, system: str | None) -> None:
        super().__init__()
        self._task, self._system = task, system

    def __missing__(self, kind: int) -> bytes:
        roles = ["system"] * (kind % 2) + ["user", "assistant"] * (kind // 4)
        contents = []
        if self._system is not None and not kind % 2:
            roles.insert(0, "system")
            contents = [self._system]
        self[kind] = SEPARATOR.join((self._task, *roles, *contents, "")).encode()
        return self[kind]
