"""Checked rows and their tokens in a file: a few numbers a row are in memory, however long it is."""

from __future__ import annotations

import os
import pickle
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast, overload

import numpy as np
import numpy.typing as npt

from tunebook_data.digest import digest
from tunebook_data.lazy_rows import Digests, Rows, as_array
from tunebook_data.rows import Row
from tunebook_spec.errors import StoreError

if TYPE_CHECKING:
    from tunebook_model.render import Rendered

_BUFFER_BYTES = 1 << 20
Numbers = npt.NDArray[np.intp]
Some = TypeVar("Some", bound=Sequence[Row])


class RowStore:
    """A temporary file of rows, each followed by its tokens; it has no name, and goes with the store.

    Args:
        folder: of the file, which takes about as much as the sources and four bytes a token; none: the
            folder for temporary files.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, buffering=_BUFFER_BYTES)
        weakref.finalize(self, self._file.close)
        self._is_flushed = True
        self._ends = array("q", [0])
        self._digests = bytearray()
        # Bytes of the row; tokens; of these, supervised.
        self._sizes, self._lengths, self._supervised = array("i"), array("i"), array("i")

    def __len__(self) -> int:
        return len(self._sizes)

    def add(self, row: Row, rendered: Rendered | None = None) -> int:
        """Put a row at the end, and as training sees it if that is known; its number.

        Raises:
            StoreError: the disk is full.
        """
        fields = (
            row.id,
            row.messages,
            row.task,
            row.group,
            row.source,
            row.line,
            row.meta,
            row.tools,
            row.spoken,
            row.rejected,
        )
        parts = [pickle.dumps(fields, pickle.HIGHEST_PROTOCOL)]
        num_tokens = num_supervised = 0
        if rendered is not None:
            num_tokens = len(rendered.input_ids)
            num_supervised = int(np.count_nonzero(rendered.loss_mask))
            parts += [
                rendered.input_ids.astype(np.int32).tobytes(),
                np.packbits(rendered.loss_mask).tobytes(),
            ]
            rest = rendered.soft_targets, rendered.weight, rendered.rejected
            if rest != (None, 1, None):
                parts.append(pickle.dumps(rest))
        record = b"".join(parts)
        try:
            self._file.write(record)
        except OSError as error:
            raise StoreError(
                f"the rows of a data set cannot be kept on disk ({error}); free some space"
            ) from None
        self._is_flushed = False
        self._ends.append(self._ends[-1] + len(record))
        self._digests += digest(row)
        self._sizes.append(len(parts[0]))
        self._lengths.append(num_tokens)
        self._supervised.append(num_supervised)
        return len(self) - 1

    def row(self, number: int) -> Row:
        return Row(*pickle.loads(self._read(self._ends[number], self._sizes[number])))

    def rendered(self, number: int) -> Rendered:
        """A row as training sees it."""
        from tunebook_model.render import Rendered

        start, num_tokens = self._ends[number] + self._sizes[number], self._lengths[number]
        record = self._read(start, self._ends[number + 1] - start)
        mask_at = 4 * num_tokens
        rest_at = mask_at + -(-num_tokens // 8)
        ids = np.frombuffer(record, np.int32, num_tokens)
        bits = np.frombuffer(record, np.uint8, rest_at - mask_at, mask_at)
        mask = np.unpackbits(bits, count=num_tokens).view(np.bool_)
        rest = pickle.loads(record[rest_at:]) if rest_at < len(record) else ()
        return Rendered(ids, mask, *rest)

    def digests(self, numbers: Numbers) -> Digests:
        return np.frombuffer(self._digests, np.uint64).reshape(-1, 2)[numbers]

    def lengths(self, numbers: Numbers) -> npt.NDArray[np.int32]:
        """Tokens of some rows."""
        return np.frombuffer(self._lengths, np.int32)[numbers]

    def supervised(self, numbers: Numbers) -> npt.NDArray[np.int32]:
        """Supervised tokens of some rows."""
        return np.frombuffer(self._supervised, np.int32)[numbers]

    def _read(self, start: int, num_bytes: int) -> bytes:
        if not self._is_flushed:
            self._file.flush()
            self._is_flushed = True
        return os.pread(self._file.fileno(), num_bytes, start)


@dataclass(frozen=True, eq=False)
class StoredRows(Sequence[Row]):
    """Some rows of a store, in order; each is read whenever it is asked for."""

    store: RowStore
    numbers: Numbers

    @classmethod
    def of(cls, rows: Iterable[tuple[Row, Rendered | None]], store: RowStore) -> StoredRows:
        """Rows that are put into the store."""
        numbers = array("q", (store.add(*each) for each in rows))
        return cls(store, np.array(numbers, np.intp))

    @property
    def digests(self) -> Digests:
        return self.store.digests(self.numbers)

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """Tokens of each; 0 where no model was at hand."""
        return self.store.lengths(self.numbers)

    @property
    def supervised(self) -> npt.NDArray[np.int32]:
        return self.store.supervised(self.numbers)

    def rendered(self, index: int) -> Rendered:
        return self.store.rendered(int(self.numbers[index]))

    def take(self, indices: Numbers) -> StoredRows:
        """Those at some indices."""
        return StoredRows(self.store, self.numbers[indices])

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> StoredRows: ...
    def __getitem__(self, index: int | slice) -> Row | StoredRows:
        if isinstance(index, slice):
            return StoredRows(self.store, self.numbers[index])
        return self.store.row(int(self.numbers[index]))

    def __iter__(self) -> Iterator[Row]:
        for number in map(int, self.numbers):
            yield self.store.row(number)


@dataclass(frozen=True)
class RenderedRows:
    """The same rows as training sees them, a pair as two; can be gone through any number of times."""

    rows: StoredRows

    def __iter__(self) -> Iterator[Rendered]:
        for rendered in map(self.rows.rendered, range(len(self.rows))):
            yield rendered
            if rendered.rejected is not None:
                yield rendered.rejected


def taken(rows: Some, indices: Numbers) -> Some:
    """Those at some indices, in memory no more than they were."""
    chosen = rows.take(indices) if isinstance(rows, StoredRows | Rows) else [rows[i] for i in indices]
    return cast(Some, chosen)


def joined(parts: Sequence[Some]) -> Some:
    """One after the other, in memory no more than they were; all of one kind, stored ones of one store."""
    if isinstance(parts[0], StoredRows):
        stored = cast(Sequence[StoredRows], parts)
        return cast(Some, StoredRows(stored[0].store, np.concatenate([each.numbers for each in stored])))
    return cast(Some, Rows.joined([each if isinstance(each, Rows) else Rows.of(each) for each in parts]))


def digests_of(rows: Sequence[Row]) -> Digests:
    return rows.digests if isinstance(rows, StoredRows | Rows) else as_array([*map(digest, rows)])
