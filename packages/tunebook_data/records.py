"""Files to records: what each kind of file holds, one row at a time."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from tunebook_data import json_list
from tunebook_data.rejects import Fault
from tunebook_data.source_files import SourceFile
from tunebook_spec.errors import DataError

Record = tuple[int, dict[str, Any] | Fault]
"""The 1-based line, or the number of the row in files without lines, and what stands there."""
_Reader = Callable[[str, BinaryIO], Iterator[Record]]

_BOM = b"\xef\xbb\xbf"
_BATCH_ROWS = 256
_EXCERPT_BYTES = 1000


def read_records(file: SourceFile) -> Iterator[Record]:
    """Every record of a file in its order; lines that are blank hold none.

    Raises:
        DataError: the file as a whole cannot be read, or not to its end.
    """
    read, decompress = _kind(file.name)
    with _told_of(file.name), file.open() as raw, decompress(raw) as stream:
        yield from read(file.name, stream)


def check_kind(name: str) -> None:
    """Raises DataError where the name of a file does not say how to read it."""
    _kind(name)


def _kind(name: str) -> tuple[_Reader, Callable[[BinaryIO], BinaryIO]]:
    path = PurePosixPath(name.lower())
    if path.suffix in _PACKED:
        inner, decompress = path.with_suffix("").suffix, _PACKED[path.suffix]
        if inner in _TEXT:
            return _TEXT[inner], decompress
    elif read := _TEXT.get(path.suffix) or _TABLES.get(path.suffix):
        return read, lambda raw: raw
    known = f"{', '.join([*_TEXT, *_TABLES])}; text may be packed: {', '.join(_PACKED)}"
    raise DataError(f"the name {name!r} does not say what kind of file it is; known: {known}")


@contextmanager
def _told_of(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
        why = "is it cut off, or something else than its name says?"
        raise DataError(f"{name}: cannot be read to its end ({error}); {why}") from None


def _jsonl(name: str, stream: BinaryIO) -> Iterator[Record]:
    for number, line in enumerate(stream, start=1):
        record = line_record(line, is_first=number == 1)
        if record is not None:
            yield number, record


def line_record(line: bytes, *, is_first: bool) -> dict[str, Any] | Fault | None:
    """What stands in a line of JSONL; none in a blank one."""
    text = (line.removeprefix(_BOM) if is_first else line).strip()
    return _object(text) if text else None


def has_lines(file: SourceFile) -> bool:
    """Whether a file lies on this machine and is JSONL as it stands."""
    return "://" not in file.place and PurePosixPath(file.name.lower()).suffix == ".jsonl"


def _json(name: str, stream: BinaryIO) -> Iterator[Record]:
    for number, item in enumerate(json_list.items(name, stream), start=1):
        yield number, _object(item)


def _object(text: bytes) -> dict[str, Any] | Fault:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        try:
            text.decode()
        except UnicodeDecodeError:
            return _unread("not UTF-8", text)
        return _unread("not JSON", text)
    return value if isinstance(value, dict) else _unread("not a JSON object", text)


def _unread(reason: str, text: bytes) -> Fault:
    return Fault("", reason, text[:_EXCERPT_BYTES].decode(errors="replace"))


def _csv(name: str, stream: BinaryIO) -> Iterator[Record]:
    csv.field_size_limit(sys.maxsize)
    # Bytes that are not UTF-8 pass through as surrogates, so that they cost their row and no other.
    reader = csv.reader((line.decode(errors="surrogateescape") for line in stream), strict=True)
    try:
        header = _header(name, next(reader, []))
        last = reader.line_num
        for cells in reader:
            line, last = last + 1, reader.line_num
            if cells:
                yield line, _row(header, cells)
    except csv.Error as error:
        raise DataError(f"{name}:{reader.line_num}: not CSV: {error}") from None


def _header(name: str, cells: list[str]) -> list[str]:
    header = [cell.removeprefix("\ufeff") for cell in cells]
    twice = [cell for cell in header if header.count(cell) > 1]
    if twice:
        raise DataError(f"{name}:1: two columns are called {twice[0]!r}; give each a name of its own")
    return header


def _row(header: list[str], cells: list[str]) -> dict[str, Any] | Fault:
    if len(cells) != len(header):
        return Fault("", "not as many cells as the header has", f"{len(cells)} cells: {', '.join(cells)!r}")
    line = ",".join(cells).encode(errors="surrogateescape")
    try:
        line.decode()
    except UnicodeDecodeError:
        return Fault("", "not UTF-8", line.decode(errors="replace"))
    return dict(zip(header, cells, strict=True))


def _parquet(name: str, stream: BinaryIO) -> Iterator[Record]:
    return _batches(pq.ParquetFile(stream).iter_batches(batch_size=_BATCH_ROWS))


def _arrow(name: str, stream: BinaryIO) -> Iterator[Record]:
    return _batches(pa.ipc.open_stream(stream))


def _batches(batches: Iterable[pa.RecordBatch]) -> Iterator[Record]:
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, _BATCH_ROWS):
            for row in _rows(batch.slice(start, _BATCH_ROWS)):
                number += 1
                yield number, row


def _rows(batch: pa.RecordBatch) -> list[dict[str, Any] | Fault]:
    try:
        return [_as_json(row) for row in batch.to_pylist()]
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            return [Fault("", "not UTF-8")]
        return [row for index in range(batch.num_rows) for row in _rows(batch.slice(index, 1))]


def _as_json(row: dict[str, Any]) -> dict[str, Any] | Fault:
    """The row as it will be when it has been written as JSON and read again."""
    try:
        value: dict[str, Any] = orjson.loads(orjson.dumps(row))
    except TypeError as error:
        return Fault("", "holds a value that JSON cannot hold", str(error))
    return value


def _zstd(raw: BinaryIO) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(pa.CompressedInputStream(raw, "zstd")))


_TEXT: Mapping[str, _Reader] = {".jsonl": _jsonl, ".json": _json, ".csv": _csv}
_TABLES: Mapping[str, _Reader] = {".parquet": _parquet, ".arrow": _arrow}
_PACKED: Mapping[str, Callable[[BinaryIO], BinaryIO]] = {
    ".gz": lambda raw: cast(BinaryIO, gzip.open(raw)),
    ".bz2": lambda raw: cast(BinaryIO, bz2.open(raw)),
    ".xz": lambda raw: cast(BinaryIO, lzma.open(raw)),
    ".zst": _zstd,
}
