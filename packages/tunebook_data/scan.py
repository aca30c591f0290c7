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
from typing import Any, BinaryIO, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from xxhash import xxh3_128_digest

from tunebook_data.checks import DAMAGED, judged, roles_fault
from tunebook_data.digest import SEPARATOR, digest
from tunebook_data.formats import TOOL_FIELDS
from tunebook_data.lazy_rows import Rows, as_array
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
_BLOCK_BYTES = 1 << 20
_MAX_HEADS = 1000


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
    starts = range(0, os.path.getsize(file.place), RANGE_BYTES)
    ranges = [range(start, start + RANGE_BYTES) for start in starts]
    if workers.are_here:
        judge = partial(_scan_range, file, checks)
        return _joined([*workers.map(judge, ranges, pool_from=POOL_RANGES)])
    contents = (_read_range(file, places) for places in ranges)
    return _joined([*workers.map(partial(_scan_lines, file, checks), contents, pool_from=POOL_RANGES)])


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


def _scan_range(file: LineFile, checks: Checks, places: range) -> Scanned:
    """The lines that begin in a range of the file."""
    with open(file.place, "rb") as stream:
        offset = _first_line(stream, places.start)
        return _scan_blocks(file, checks, offset, _blocks(stream, places.stop - offset))


def _read_range(file: LineFile, places: range) -> tuple[int, bytes]:
    """The lines that begin in a range of the file, and where the first of them begins."""
    with open(file.place, "rb") as stream:
        offset = _first_line(stream, places.start)
        return offset, b"".join(_blocks(stream, places.stop - offset))


def _scan_lines(file: LineFile, checks: Checks, lines: tuple[int, bytes]) -> Scanned:
    """Whole lines that were read already, and where the first of them begins in the file."""
    offset, content = lines
    return _scan_blocks(file, checks, offset, _blocks(io.BytesIO(content), len(content)))


def _scan_blocks(file: LineFile, checks: Checks, offset: int, blocks: Iterator[bytes]) -> Scanned:
    clean = _CleanLines(file, checks)
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
    lines = block.split(b"\n")
    if not lines[-1]:
        lines.pop()
    digests = clean.digests(block, lines)
    rows: dict[int, Row] = {}
    for index in [index for index, found in enumerate(digests) if found is None] if None in digests else ():
        item = file.item(made.num_lines + index + 1, lines[index], is_first=offset == index == 0)
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
    lengths = np.fromiter(map(len, lines), np.int64, len(lines))
    starts = offset + np.cumsum(lengths + 1) - lengths - 1
    numbers = np.arange(len(lines)) + made.num_lines + 1
    kept = np.arange(len(lines))
    if None in digests:
        kept = np.flatnonzero([found is not None for found in digests])
    made.num_lines += len(lines)
    made.num_records += len(lines)
    made.num_parsed += len(lines)
    where = {int(index): at for at, index in enumerate(kept)} if rows else {}
    return Rows(
        (file,),
        np.zeros(len(kept), np.intp),
        np.stack([starts, lengths, numbers], axis=1)[kept],
        as_array([found for found in digests if found is not None]),
        {where[index]: row for index, row in rows.items()},
    )


class _Message(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    role: Literal["system", "user", "assistant"]
    content: str


# Printable ASCII whose escapes are none of these holds nothing that `checks.damaged_text` looks for.
_ODD_ESCAPE = np.array([chr(byte) not in '"\\/nrt' for byte in range(256)])
# Whatever else it looks for begins, in UTF-8, with one of the first bytes and goes on with one of the second.
_DAMAGED_BYTE = np.isin(np.arange(256), [0xC2, 0xC3, 0xEF])
_DAMAGED_NEXT = np.isin(np.arange(256), [*range(0x80, 0xA0), 0xA2, 0xB0, 0xBF])
_WIDE, _ODD, _FOUND = 1, 2, 3
"""A line has to be valid UTF-8; JSON for every reader, of undamaged text; judged as a row."""
_LINE_END, _BACKSLASH = ord("\n"), ord("\\")
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
    """Knows the lines of a file that hold a row of which no check has anything to say."""

    def __init__(self, file: LineFile, checks: Checks) -> None:
        self.file, self.checks = file, checks
        scans = [_PERSONAL] * (checks.personal_data != "allow") + [_REFUSAL] * (checks.refusals != "allow")
        self._scanned_for = "|".join(scans)
        known: list[tuple[str, Any] | tuple[str, Any, Any]] = [("messages", list[_Message])]
        if file.group_by is not None:
            known.append((file.group_by, str))
        known += [(field, Any, None) for field in TOOL_FIELDS]
        record = msgspec.defstruct("_Record", known, gc=False)
        self._decode = msgspec.json.Decoder(record).decode
        self._heads = _Heads(file.task, has_system=file.system is not None)
        self._may_be = (
            file.form == "messages" and file.task not in checks.answer_schema and self._system_is_clean()
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

    def digests(self, block: bytes, lines: Sequence[bytes]) -> list[bytes | None]:
        """The digest of each such row; none for any other line."""
        decode, heads, group_by, system = self._decode, self._heads, self.file.group_by, self.file.system
        shortest, longest = self.checks.min_response_chars, self.checks.max_response_chars
        made: list[bytes | None] = [None] * len(lines)
        if not self._may_be:
            return made
        for index, (line, look) in enumerate(zip(lines, self._looks(block, len(lines)), strict=True)):
            try:
                if look == _FOUND:
                    continue
                if look == _WIDE:
                    line.decode()
                if look == _ODD and not isinstance(orjson.loads(line), dict):
                    continue
                record: Any = decode(line)
            except (msgspec.MsgspecError, ValueError, RecursionError):
                continue
            messages = record.messages
            contents = [message.content for message in messages]
            head = heads[tuple([message.role for message in messages])]
            if (
                head is None
                or not all(map(str.strip, contents))
                or not shortest <= len(contents[-1]) <= longest
                or record.tools is not None
                or record.functions is not None
                or (group_by is not None and not getattr(record, group_by))
                or (look == _ODD and DAMAGED.search("\n".join(contents)))
            ):
                continue
            if system is not None and messages[0].role != "system":
                contents.insert(0, system)
            made[index] = xxh3_128_digest((head + SEPARATOR.join(contents)).encode())
        return made

    def _looks(self, block: bytes, num_lines: int) -> list[int]:
        """What is to be looked at in each line before it can be a clean row."""
        data = np.frombuffer(block, np.uint8)
        # Below a blank, beyond a tilde; unsigned, so that one comparison tells both.
        places = _sparse(((data - np.uint8(32)) > 94) | (data == _BACKSLASH))
        found, after = data[places], data[np.minimum(places + 1, len(data) - 1)]
        ends = places[found == _LINE_END]
        looks = np.zeros(num_lines + 1, np.uint8)
        looks[np.searchsorted(ends, places[found >= 128])] = _WIDE
        is_odd = (found < 128) & (found != _LINE_END) & ((found != _BACKSLASH) | _ODD_ESCAPE[after])
        is_odd |= _DAMAGED_BYTE[found] & _DAMAGED_NEXT[after]
        looks[np.searchsorted(ends, places[is_odd])] = _ODD
        if self._scanned_for:
            looks[:-1][(looks[:-1] > 0) | self._found(block, ends, num_lines)] = _FOUND
        made: list[int] = looks[:-1].tolist()
        return made

    def _found(self, block: bytes, ends: npt.NDArray[np.intp], num_lines: int) -> npt.NDArray[np.bool_]:
        offsets = np.concatenate([[0], ends[: num_lines - 1] + 1, [len(block)]]).astype(np.int64)
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(block)]
        array = pa.LargeBinaryArray.from_buffers(pa.large_binary(), num_lines, buffers)
        found: npt.NDArray[np.bool_] = pc.match_substring_regex(array, self._scanned_for).to_numpy(False)
        return found


def _sparse(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """The places where a mask is set, which are few: eight are passed over at once."""
    eights = np.zeros(-(-len(mask) // 8), np.uint64)
    eights.view(np.bool_)[: len(mask)] = mask
    at = np.flatnonzero(eights != 0)
    rows, columns = np.nonzero(eights[at].view(np.bool_).reshape(-1, 8))
    return at[rows] * 8 + columns


class _Heads(dict[tuple[Role, ...], str | None]):
    """What the digest of a row with some roles begins with; none where they are no good."""

    def __init__(self, task: str, *, has_system: bool) -> None:
        super().__init__()
        self._task, self._has_system = task, has_system

    def __missing__(self, roles: tuple[Role, ...]) -> str | None:
        row = Row("", tuple(Message(role=role, content="") for role in roles), "", "", "", 0)
        whole = ("system", *roles) if self._has_system and roles[:1] != ("system",) else roles
        head = None if roles_fault(row) else SEPARATOR.join((self._task, *whole, ""))
        if len(self) < _MAX_HEADS:
            self[roles] = head
        return head
