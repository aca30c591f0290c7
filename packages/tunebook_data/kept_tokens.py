"""Tokens on disk by what they were rendered from: a row that is known need not be rendered again.

A folder holds what one way of rendering makes, in token tables that are written whole and never changed:
any number of processes may read, add and delete at once. Each is named by its content, so that damage shows.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Self

import numpy as np
import orjson
import pyarrow as pa
from pydantic import JsonValue
from xxhash import xxh3_128_hexdigest

from tunebook_data.checks import cut_to
from tunebook_data.rows import Row
from tunebook_data.tokens import TokenTable, write_tokens
from tunebook_model.digests import files_digest
from tunebook_model.folder import RENDERING_FILES
from tunebook_model.render import Rendered
from tunebook_run.clean import TOKENS
from tunebook_spec.data import Checks
from tunebook_spec.errors import StoreError

logger = logging.getLogger(__name__)

LIBRARIES = ("jinja2", "tokenizers", "transformers")
_KEY_CHARS = 32
TABLE_TOKENS = 1 << 22
"""A table is written for so many, which take about half a minute to render: a kill loses no more."""


def rendering_key(
    model_dir: Path,
    chat_template_kwargs: Mapping[str, str | bool],
    checks: Checks,
    *,
    format: JsonValue,
    cache_dir: Path,
) -> str:
    """What decides, beside a row, its tokens and its loss mask.

    A limit belongs to it only where rows are cut to fit; anywhere else a row has the tokens that it has.

    Args:
        model_dir: whose tokenizer, template and end-of-turn tokens count by their bytes.
        chat_template_kwargs: what the template is handed.
        checks: of which the limits count.
        format: of `prepare`, raised whenever our own code makes something else of the same rows.
        cache_dir: keeps the digests of the model's files.
    """
    parts = {
        "files": files_digest(model_dir, RENDERING_FILES, cache_dir),
        "chat_template_kwargs": dict(chat_template_kwargs),
        "cut_to": checks.max_tokens if checks.on_too_long == "truncate_left" else None,
        "format": format,
        "libraries": {name: version(name) for name in LIBRARIES},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def row_key(row: Row) -> str:
    """32 hex digits over all that a template is shown of a row: every message as it stands, and the tools."""
    return xxh3_128_hexdigest(orjson.dumps([row.messages, row.tools]))


class KeptTokens:
    """The rows that are known, for one run to ask for and to add to; a context, which writes at its end.

    Args:
        cache_dir: of this machine.
        key: the `rendering_key`.
        checks: a known row with more than their `max_tokens` is none.

    Raises:
        StoreError: the folder cannot be read or written, from any method.
    """

    def __init__(self, cache_dir: Path, key: str, checks: Checks) -> None:
        self.num_asked = self.num_known = 0
        self._folder = cache_dir / TOKENS / key
        self._max_tokens = checks.max_tokens
        self._fresh: dict[str, Rendered] = {}
        self._num_fresh_tokens = 0
        with self._told():
            self._folder.mkdir(parents=True, exist_ok=True)
            paths = sorted(self._folder.glob("*.arrow"))
            self._tables = [(path, table) for path in paths if (table := _opened(path)) is not None]
        self._used: set[Path] = set()
        self._last = 0
        self._starts = np.cumsum([0, *(len(table) for _, table in self._tables)])
        # An entry's id is the key of its row, and in hex how many of its messages fit.
        ids = [table.batch["id"].to_numpy(zero_copy_only=False).astype("S") for _, table in self._tables]
        self._ids = np.concatenate([np.empty(0, "S1"), *ids])
        self._order = np.argsort(self._ids)

    def find(self, row: Row) -> int | None:
        """Where it is kept how training sees a row; None if that has to be found out."""
        self.num_asked += 1
        key = row_key(row).encode()
        place = np.searchsorted(self._ids, key, sorter=self._order)
        if place == len(self._ids) or not self._ids[self._order[place]].startswith(key):
            return None
        entry = int(self._order[place])
        number, at = self._place(entry)
        path, table = self._tables[number]
        if table.lengths[at] > self._max_tokens:
            return None
        self._used.add(path)
        self.num_known += 1
        return entry

    def read(self, row: Row, entry: int) -> tuple[Row, Rendered]:
        """The row that was found there, cut to fit if need be, and as training sees it."""
        number, at = self._place(entry)
        table = self._tables[number][1]
        if number != self._last:
            # All tables together may be larger than memory.
            self._tables[self._last][1].forget()
            self._last = number
        cut = cut_to(row, int(self._ids[entry][_KEY_CHARS:], 16))
        return cut, Rendered(table.input_ids(at), table.loss_mask(at))

    def _place(self, entry: int) -> tuple[int, int]:
        number = int(np.searchsorted(self._starts, entry, side="right")) - 1
        return number, entry - int(self._starts[number])

    def keep(self, row: Row, fitting: Row, rendered: Rendered) -> None:
        """Add a row that was not known; it is on disk after so many more, or at the end.

        Args:
            row: as it was asked for.
            fitting: the same, cut to fit if need be.
            rendered: that as training sees it.
        """
        self._fresh[f"{row_key(row)}{len(fitting.messages):x}"] = rendered
        self._num_fresh_tokens += len(rendered.input_ids)
        if self._num_fresh_tokens >= TABLE_TOKENS:
            self._write()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._write()
        for path in self._used:
            with suppress(FileNotFoundError):
                os.utime(path)  # `tunebook clean` goes by it

    def _write(self) -> None:
        if not self._fresh:
            return
        part = self._folder / f".{uuid.uuid4().hex}"
        with self._told():
            write_tokens(part, self._fresh.items())
            part.replace(self._folder / f"{_content_digest(part)}.arrow")
        self._fresh.clear()
        self._num_fresh_tokens = 0

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"{self._folder}: tokens cannot be kept there ({error}); free some space, or set"
                " TUNEBOOK_CACHE_DIR to a folder that can be written"
            ) from None


def _opened(path: Path) -> TokenTable | None:
    """A table; None if another process has just deleted it, or if it is not as it was written."""
    try:
        if _content_digest(path) == path.stem:
            return TokenTable.open(path)
    except FileNotFoundError:
        return None
    logger.warning("%-16s %s is damaged and deleted; its rows are tokenised again", "prepare", path)
    path.unlink(missing_ok=True)
    return None


def _content_digest(path: Path) -> str:
    with pa.memory_map(str(path)) as file:
        return xxh3_128_hexdigest(file.read_buffer())
