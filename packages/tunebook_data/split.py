"""Rows to train, validation and test, such that what is asked in one was not learned in another."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from xxhash import xxh3_64_intdigest

from tunebook_data.copies import Copies
from tunebook_data.lazy_rows import Digests
from tunebook_data.prompts import answered_numbers
from tunebook_data.rows import ACROSS_TASKS, Row
from tunebook_data.stored_rows import Numbers, Some, digests_of, joined, taken
from tunebook_data.workers import batched
from tunebook_spec.data import Split
from tunebook_spec.errors import DataError, IntegrityError

Side = Literal["train", "validation", "test"]
SIDES: tuple[Side, ...] = ("train", "validation", "test")
Sides = npt.NDArray[np.int8]
"""The side of each row, as a place in `SIDES`; -1: none yet."""
_ROWS_A_CHUNK = 4096


@dataclass(frozen=True)
class SourceRows:
    """The rows of one source, and how it wants them split."""

    name: str
    split: Split
    rows: Sequence[Row]


def drop_duplicates(sources: Iterable[SourceRows]) -> tuple[list[SourceRows], Copies]:
    """Keep the first of equal conversations of one task, over all sources; list the others."""
    sources = list(sources)
    whole = joined([each.rows for each in sources])
    first = _first_equal(digests_of(whole))
    is_copy = first != np.arange(len(first))
    copies = np.flatnonzero(is_copy)
    kept, start = [], 0
    for source in sources:
        stay = np.flatnonzero(~is_copy[start : start + len(source.rows)])
        kept.append(SourceRows(source.name, source.split, taken(source.rows, stay)))
        start += len(source.rows)
    return kept, Copies("exact", whole, copies, first[copies], np.ones(len(copies)))


def _first_equal(digests: Digests) -> Numbers:
    """For each row the first that is equal to it, which may be itself."""
    # Most rows differ from all others in half of the digest, by which they are sorted many times as fast.
    by_half = np.argsort(digests[:, 0])
    half = digests[by_half, 0]
    is_next = np.append(half[1:] == half[:-1], False)
    may_be = np.sort(by_half[is_next | np.roll(is_next, 1)])
    first = np.arange(len(digests))
    if len(may_be):
        order = may_be[np.lexsort((digests[may_be, 1], digests[may_be, 0]))]
        is_new = np.append(True, (digests[order[1:]] != digests[order[:-1]]).any(1))
        # The sort is stable: the first of a run is the least.
        first[order] = order[is_new][np.cumsum(is_new) - 1]
    return first


@dataclass(frozen=True)
class Keys:
    """What rows are split by; numbers are equal for equal keys, as `prompts.key_number` says."""

    groups: npt.NDArray[np.uint64]
    """Task and group of each row [N]."""
    answered: npt.NDArray[np.uint64]
    """All prompts that it answers [A], row after row; the last is what it asks."""
    ends: npt.NDArray[np.intp]
    """Where those of each row end [N]."""

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Keys:
        groups, answered, ends = array("Q"), array("Q"), array("q")
        for row in rows:
            groups.append(group_number(row))
            answered.extend(answered_numbers(row.messages))
            ends.append(len(answered))
        return cls(np.array(groups, np.uint64), np.array(answered, np.uint64), np.array(ends, np.intp))

    @property
    def asked(self) -> npt.NDArray[np.uint64]:
        return self.answered[self.ends - 1]

    @property
    def rows(self) -> Numbers:
        """Which row answers [A]."""
        return np.repeat(np.arange(len(self.ends)), np.diff(self.ends, prepend=0))

    @property
    def num_groups(self) -> int:
        return len(np.unique(self.groups))

    def take(self, indices: Numbers) -> Keys:
        counts = np.diff(self.ends, prepend=0)[indices]
        ends = np.cumsum(counts)
        at = np.arange(counts.sum()) + np.repeat(self.ends[indices] - ends, counts)
        return Keys(self.groups[indices], self.answered[at], ends)


def group_number(row: Row) -> int:
    """Of the group, and of the task unless it spans tasks."""
    return xxh3_64_intdigest(_name(row).encode())


def _name(row: Row) -> str:
    """Ordered as task and group are."""
    return row.group if row.group.startswith(ACROSS_TASKS) else f"{row.task}\0{row.group}"


def split_rows(sources: Sequence[SourceRows], seed: int, keys: Keys | None = None) -> list[Sides]:
    """The side of every row, source by source.

    Rows that share a group of one task, or of which one asks what another answers, form a unit that stays
    whole, across sources too. A source's units, in the order of their seeded hash, are cut at its shares: the
    counts are exact, less what an earlier source has already placed.

    Args:
        sources: whose rows all have an answer.
        seed: of the order.
        keys: of all their rows, if they are known.

    Raises:
        DataError: a source has too few units for its shares.
    """
    keys = keys or Keys.of(row for source in sources for row in source.rows)
    units = _units(keys)
    sides = np.full(len(units), -1, np.int8)
    made: list[Sides] = []
    start = 0
    for source in sources:
        mine = units[start : start + len(source.rows)]
        if len(mine):
            _place(source, _ordered(mine, source.rows, seed), sides)
        made.append(sides[mine])
        start += len(mine)
    return made


def cap_rows(rows: Some, cap: int | None, *, dealt: bool, seed: int) -> Some:
    """At most `cap` rows in their former order.

    Args:
        rows: those of one source on one side.
        cap: none: all.
        dealt: the source deals its rows like cards, so that the first ones are already an even, seeded draw;
            any other source's are drawn by seed, evenly over groups.
        seed: of the draw.
    """
    if cap is None or dealt or len(rows) <= cap:
        return taken(rows, np.arange(len(rows))[:cap])
    ids, groups = _hashes(seed, (row.id for row in rows)), _hashes(seed, (row.group for row in rows))
    by_group = np.lexsort((ids[:, 1], ids[:, 0], groups[:, 1], groups[:, 0]))
    is_new = np.ones(len(rows), np.bool_)
    is_new[1:] = (groups[by_group[1:]] != groups[by_group[:-1]]).any(1)
    starts = np.flatnonzero(is_new)
    turns = np.empty(len(rows), np.intp)
    turns[by_group] = np.arange(len(rows)) - starts[np.cumsum(is_new) - 1]
    return taken(rows, np.sort(np.lexsort((groups[:, 1], groups[:, 0], turns))[:cap]))


def check_leaks(splits: Mapping[Side, Sequence[Row]], keys: Mapping[Side, Keys] | None = None) -> None:
    """Prove that no two splits share a group, and that none asks what another answers.

    Args:
        splits: rows by side.
        keys: theirs, if they are known.

    Raises:
        IntegrityError: names two rows.
    """
    keys = keys or {side: Keys.of(rows) for side, rows in splits.items()}
    for side in SIDES:
        for other in SIDES:
            if other == side:
                continue
            mine, others = keys[side], keys[other]
            is_asked = np.isin(others.asked, mine.answered)
            leaks = np.flatnonzero(is_asked | np.isin(others.groups, mine.groups))
            if not len(leaks):
                continue
            at = int(leaks[0])
            row = splits[other][at]
            if is_asked[at]:
                what, twins = "prompt", mine.rows[mine.answered == others.asked[at]]
            else:
                what, twins = f"group {row.group!r}", np.flatnonzero(mine.groups == others.groups[at])
            twin = splits[side][int(twins[-1])]
            raise IntegrityError(
                f"the same {what} is in {side} and {other}: {twin.source}:{twin.line} and"
                f" {row.source}:{row.line}; the split leaks, so nothing measured on it would count"
            )


def _place(source: SourceRows, ordered: Numbers, sides: Sides) -> None:
    """Put a source's units where they belong; those that have a place stay there."""
    targets = _targets(source, len(ordered))
    for number, side in enumerate(SIDES):
        targets[side] -= int(np.count_nonzero(sides[ordered] == number))
    free = ordered[sides[ordered] < 0]
    for side in ("test", "validation", "train"):
        num = max(0, targets[side])
        sides[free[:num]] = SIDES.index(side)
        free = free[num:]
    for side, target in _targets(source, len(ordered)).items():
        if target and SIDES.index(side) not in sides[ordered]:
            raise DataError(
                f"source {source.name!r}: no group is left for {side}: its rows share prompts or groups with"
                " sources listed before it; list it first, or give both the same shares"
            )


def _targets(source: SourceRows, num_units: int) -> dict[Side, int]:
    """How many units each side gets; a share above zero gets one at least."""
    shares: dict[Side, float] = {"test": source.split.test, "validation": source.split.validation}
    targets = {side: max(1, round(share * num_units)) if share else 0 for side, share in shares.items()}
    targets["train"] = num_units - sum(targets.values())
    if targets["train"] < 1 and max(shares.values()) < 1:
        needed = 1 + sum(1 for share in shares.values() if share)
        by = f"group_by {source.split.group_by!r}" if source.split.group_by else "rows as groups"
        raise DataError(
            f"source {source.name!r}: {num_units} group(s) ({by}; groups with a common prompt count as one)"
            f" cannot be split by test {source.split.test} and validation {source.split.validation}, which"
            f" needs {needed} at least; add data, group by another field, or lower the shares"
        )
    return targets


def _units(keys: Keys) -> Numbers:
    """The unit of each row, called by the number of its first row.

    Each row takes the least number among those that share a key with it, and so does the row that it was
    called by, until nothing changes: the number of rounds grows with the logarithm of the longest chain.
    """
    _, groups = np.unique(keys.groups, return_inverse=True)
    prompts = np.unique(keys.asked)
    places = np.minimum(np.searchsorted(prompts, keys.answered), len(prompts) - 1)
    is_asked = prompts[places] == keys.answered
    shared = ((np.arange(len(groups)), groups), (keys.rows[is_asked], places[is_asked]))
    units = np.arange(len(groups))
    while True:
        before = units.copy()
        for rows, members in shared:
            least = np.full(len(groups), len(groups))
            np.minimum.at(least, members, units[rows])
            np.minimum.at(units, before[rows], least[members])
            np.minimum.at(units, rows, least[members])
        units = units[units]
        if (units == before).all():
            return np.asarray(units, np.intp)


def _ordered(units: Numbers, rows: Sequence[Row], seed: int) -> Numbers:
    """The units of a source in the seeded order of their names, which do not depend on the order of rows.

    The name of a unit is its first group.
    """
    names = pa.concat_arrays(
        [
            pa.array([], pa.large_string()),
            *(pa.array(map(_name, each), pa.large_string()) for each in batched(rows, _ROWS_A_CHUNK)),
        ]
    )
    by_name = pc.sort_indices(names).to_numpy()
    # Of each unit, the first row by name.
    of_unit, at = np.unique(units[by_name], return_index=True)
    chosen = names.take(pa.array(by_name[at]))
    parts = (chosen.slice(start, _ROWS_A_CHUNK).to_pylist() for start in range(0, len(chosen), _ROWS_A_CHUNK))
    hashes = _hashes(seed, (name for part in parts for name in part))
    return np.asarray(of_unit[np.lexsort((hashes[:, 1], hashes[:, 0]))], np.intp)


def _hashes(seed: int, texts: Iterable[str]) -> Digests:
    """Two numbers for each text, ordered as the SHA-256 of seed and text are: its first half."""
    made = bytearray()
    for text in texts:
        made += hashlib.sha256(f"{seed}\0{text}".encode()).digest()[:16]
    return np.frombuffer(made, ">u8").reshape(-1, 2).astype(np.uint64)
