"""Rows of which only their places are in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import BinaryIO, overload

import numpy as np
import numpy.typing as npt

from tunebook_data.digest import digest
from tunebook_data.rows import Row
from tunebook_data.sources import LineFile
from tunebook_spec.errors import DataError

_ROWS_A_CHUNK = 4096
_MAX_OPEN = 64
"""A glob may name more files than a process may have open."""
Digests = npt.NDArray[np.uint64]
"""Two numbers a row: `digest`."""
Places = npt.NDArray[np.int64]
"""Offset in the file, length, and line of each row [N, 3]."""


@dataclass(frozen=True)
class Rows(Sequence[Row]):
    """Rows in order. One that is not in memory is read from its file and made again when it is asked for."""

    files: tuple[LineFile, ...]
    file_of: npt.NDArray[np.intp]
    """Which of the files a row is in [N]."""
    places: Places
    digests: Digests
    made: dict[int, Row]
    """Those in memory, by index; their places are void."""

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Rows:
        """Rows that are in memory."""
        none = np.zeros((len(rows), 3), np.int64)
        return cls((), none[:, 0], none, as_array([*map(digest, rows)]), dict(enumerate(rows)))

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """One after the other."""
        if not parts:
            return cls.of(())
        if len(parts) == 1:
            return parts[0]
        starts = np.cumsum([0, *map(len, parts)])
        # However many parts a file was read in, it is one file, and opened once.
        numbers: dict[LineFile, int] = {}
        for part in parts:
            for file in part.files:
                numbers.setdefault(file, len(numbers))
        # One more, for rows in memory: their file is void.
        renumbered = (np.array([*(numbers[file] for file in part.files), 0]) for part in parts)
        return cls(
            tuple(numbers),
            np.concatenate([new[part.file_of] for part, new in zip(parts, renumbered, strict=True)]),
            np.concatenate([part.places for part in parts]),
            np.concatenate([part.digests for part in parts]),
            {
                int(first) + index: row
                for part, first in zip(parts, starts, strict=False)
                for index, row in part.made.items()
            },
        )

    def take(self, indices: npt.NDArray[np.intp]) -> Rows:
        """Those at some indices."""
        made = {}
        if self.made:
            made = {i: self.made[old] for i, old in enumerate(indices.tolist()) if old in self.made}
        return Rows(self.files, self.file_of[indices], self.places[indices], self.digests[indices], made)

    def further_down(self, num_lines: int) -> Rows:
        """The same that many lines further down in their file."""
        made = {i: replace(row, line=row.line + num_lines) for i, row in self.made.items()}
        return replace(self, places=self.places + np.array([0, 0, num_lines]), made=made)

    def source_line(self, index: int) -> tuple[str, int]:
        """What a listing calls a row."""
        if index in self.made:
            return self.made[index].source, self.made[index].line
        return self.files[self.file_of[index]].name, int(self.places[index, 2])

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> Row | Rows:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        return next(iter(self.take(np.array([range(len(self))[index]]))))

    def __iter__(self) -> Iterator[Row]:
        with ExitStack() as stack:
            streams: dict[int, BinaryIO] = {}
            for index, (at, (offset, length, line)) in enumerate(self._each_place()):
                if index in self.made:
                    yield self.made[index]
                    continue
                if at not in streams:
                    if len(streams) == _MAX_OPEN:
                        stack.close()
                        streams.clear()
                    streams[at] = stack.enter_context(open(self.files[at].place, "rb"))
                streams[at].seek(offset)
                item = self.files[at].item(line, streams[at].read(length), is_first=offset == 0)
                if not isinstance(item, Row):
                    raise DataError(
                        f"{self.files[at].name}: has changed while it was read: line {line}; run again"
                    )
                yield item

    def _each_place(self) -> Iterator[tuple[int, list[int]]]:
        """File and place of each row; as Python objects they take many times the memory, so few at once."""
        for start in range(0, len(self), _ROWS_A_CHUNK):
            chunk = slice(start, start + _ROWS_A_CHUNK)
            yield from zip(self.file_of[chunk].tolist(), self.places[chunk].tolist(), strict=True)


def as_array(digests: Sequence[bytes]) -> Digests:
    return np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)
