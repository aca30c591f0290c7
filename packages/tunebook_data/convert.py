"""A file of rows in any known format, written as OpenAI's `messages` JSONL."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import orjson
from pydantic import ValidationError

from tunebook_data.personal_data import mask_reject
from tunebook_data.rejects import Reject
from tunebook_data.rows import Row
from tunebook_data.source_files import is_glob
from tunebook_data.sources import read_source
from tunebook_spec.data import FileSource
from tunebook_spec.errors import DataError, InputError


@dataclass
class Converted:
    rows: int = 0
    rejects: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    """Fields that a row has beside its conversation, which `messages` has no place for, and how many rows."""

    def summary(self) -> str:
        parts = [f"{self.rows} rows written, {self.rejects} rejects"]
        if self.left_out:
            names = ", ".join(f"{name} ({rows})" for name, rows in self.left_out.items())
            parts.append(f"fields left out: {names}; --keep-fields keeps them")
        return "; ".join(parts)


def convert(path: str, target: BinaryIO, *, keep_fields: bool, tell: Callable[[Reject], None]) -> Converted:
    """Write the conversations of a file, or of all files that a glob or a folder leads to.

    Contents are left as they are: whether rows can be trained on is for `tunebook data check` to say.

    Args:
        path: as in `data.sources` of a spec, relative to the working directory.
        target: gets one JSON object a line.
        keep_fields: write a row's other fields beside its messages.
        tell: told of each row that cannot be read, its secrets masked.

    Raises:
        DataError: a file as a whole cannot be read, or not one row can.
    """
    done = Converted()
    source = _source(path)
    for part in read_source(source, system=None, spec_dir=Path(), assets_dir=Path(), seed=0):
        for item in part.items:
            if isinstance(item, Reject):
                tell(mask_reject(item))
                done.rejects += 1
                continue
            target.write(_line(item, keep_fields))
            done.rows += 1
            for name in () if keep_fields else item.meta:
                done.left_out[name] = done.left_out.get(name, 0) + 1
    if not done.rows:
        raise DataError(f"{path}: none of its {done.rejects} rows can be read")
    return done


def _source(path: str) -> FileSource:
    if "://" not in path and not os.path.lexists(path) and not is_glob(path):
        raise DataError(f"no such file: {path}")
    try:
        return FileSource.model_validate({"kind": "file", "path": path, "task": "convert"})
    except ValidationError as error:
        raise InputError(f"{path}: {error.errors()[0]['msg']}") from None


def _line(row: Row, keep_fields: bool) -> bytes:
    tools = {"tools": row.tools} if row.tools else {}
    fields = {**(row.meta if keep_fields else {}), "messages": row.messages, **tools}
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)


@contextmanager
def new_file(path: Path, *, force: bool) -> Iterator[BinaryIO]:
    """A file that is there as a whole once it has been written, and not at all if that failed.

    Raises:
        InputError: there is one already and `force` is not given, or it cannot be made.
    """
    if not force and os.path.lexists(path):
        raise InputError(f"{path}: is there already; give --force to replace it, or another --out")
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with part.open("xb") as file:
            yield file
        # A link, unlike a rename, replaces nothing that has come to be there meanwhile.
        part.replace(path) if force else os.link(part, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        part.unlink(missing_ok=True)
