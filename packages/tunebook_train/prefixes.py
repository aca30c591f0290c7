"""What rows of a pack begin with in common, such as a system message, so that it is computed once.

Under causal attention, what a token becomes depends on those before it alone: rows that begin alike have the
same states there, and their gradients add up. Rows that share more than all of them do, such as the two
answers of a pair, share that among themselves.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MIN_SHARED = 8
"""Tokens that rows share beyond what they share with others, or it is not worth it."""


@dataclass(frozen=True)
class SharedPrefix:
    row: int
    """Of the pack; its tokens serve the readers too."""
    length: int
    """Of the prefix, in tokens."""
    readers: tuple[int, ...]
    """Rows without tokens of their own there."""


def shared_prefixes(ids: Sequence[npt.NDArray[np.int32]], limits: Sequence[int]) -> tuple[SharedPrefix, ...]:
    """Shorter ones first; a row reads at most one, maybe of a row that itself reads a shorter one.

    Args:
        ids: token ids of each row.
        limits: how many of its tokens each row may have in common with others; the rest is its own.
    """
    reads: dict[int, tuple[int, int]] = {}

    def look(rows: Iterable[int], start: int) -> None:
        """Into rows whose first `start` tokens are the same."""
        alike: dict[bytes, list[int]] = defaultdict(list)
        end = start + MIN_SHARED
        for row in rows:
            if limits[row] >= end:
                alike[ids[row][start:end].tobytes()].append(row)
        for first, *others in alike.values():
            if others:
                length = _in_common([ids[row][: limits[row]] for row in (first, *others)])
                reads.update({row: (length, first) for row in others})
                look((first, *others), length)

    look(range(len(ids)), 0)
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row, prefix in reads.items():
        found[prefix].append(row)
    return tuple(SharedPrefix(row, length, tuple(found[length, row])) for length, row in sorted(found))


def _in_common(rows: Sequence[npt.NDArray[np.int32]]) -> int:
    shortest = min(map(len, rows))
    first, *others = (row[:shortest] for row in rows)
    differs = np.logical_or.reduce([first != other for other in others])
    return int(differs.argmax()) if differs.any() else shortest
