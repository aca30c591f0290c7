"""Reads files as a spec's source, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunebook_data.rejects import Reject
from tunebook_data.rows import Row
from tunebook_data.sources import read_source
from tunebook_spec.data import FileSource

GOOD = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
ROW = b'{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}'


def read(folder: Path, path: str, *, system: str | None = None, **fields: Any) -> list[Row | Reject]:
    """Everything that a source yields."""
    source = FileSource.model_validate({"kind": "file", "path": path, "task": "task", **fields})
    parts = read_source(source, system=system, spec_dir=folder, assets_dir=folder, seed=0)
    return [item for part in parts for item in part.items]


def read_rows(folder: Path, path: str, **fields: Any) -> list[Row]:
    """The same where every row must be good."""
    items = read(folder, path, **fields)
    rejects = [item for item in items if isinstance(item, Reject)]
    assert not rejects
    return [item for item in items if isinstance(item, Row)]


def said(row: Row) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in row.messages]
