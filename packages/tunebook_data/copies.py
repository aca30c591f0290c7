"""Rows that are left out since each repeats another: by number, however many there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tunebook_data.lazy_rows import Rows
from tunebook_data.rejects import Duplicate
from tunebook_data.rows import Row
from tunebook_data.stored_rows import Numbers


@dataclass(frozen=True, eq=False)
class Copies:
    """Each is told of when it is asked for."""

    kind: Literal["exact", "near"]
    rows: Sequence[Row]
    """Both those that are left out and those that stay."""
    copies: Numbers
    firsts: Numbers
    """What each of the copies repeats."""
    similarities: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.copies)

    def __iter__(self) -> Iterator[Duplicate]:
        for copy, first, similarity in zip(self.copies, self.firsts, self.similarities, strict=True):
            places = *self._source_line(int(copy)), self.kind, *self._source_line(int(first))
            yield Duplicate(*places, round(float(similarity), 4))

    def _source_line(self, number: int) -> tuple[str, int]:
        if isinstance(self.rows, Rows):
            return self.rows.source_line(number)
        row = self.rows[number]
        return row.source, row.line
