"""Rows to train, validation and test, such that what is asked in one was not learned in another."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

import numpy as np
import numpy.typing as npt

from tunebook_data.lazy_rows import Digests, Rows
from tunebook_data.prompts import PromptKey, answered, asked
from tunebook_data.rejects import Duplicate
from tunebook_data.rows import Row
from tunebook_spec.errors import DataError, IntegrityError
from tunebook_spec.models import Split

Side = Literal["train", "validation", "test"]
SIDES: tuple[Side, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class SourceRows:
    """The rows of one source, and how it wants them split."""

    name: str
    split: Split
    rows: Sequence[Row]


def drop_duplicates(sources: Iterable[SourceRows]) -> tuple[list[SourceRows], list[Duplicate]]:
    """Keep the first of equal conversations of one task, over all sources; list the others."""
    sources = list(sources)
    rows = [each.rows if isinstance(each.rows, Rows) else Rows.of(each.rows) for each in sources]
    whole = Rows.joined(rows)
    first = _first_equal(whole.digests)
    copies = np.flatnonzero(first != np.arange(len(whole)))
    dropped = []
    for copy in copies.tolist():
        places = (*whole.source_line(copy), *whole.source_line(int(first[copy])))
        dropped.append(Duplicate(places[0], places[1], "exact", places[2], places[3], 1.0))
    kept, start = [], 0
    for source, each in zip(sources, rows, strict=True):
        is_copy = (first != np.arange(len(whole)))[start : start + len(each)]
        kept.append(SourceRows(source.name, source.split, each.take(np.flatnonzero(~is_copy))))
        start += len(each)
    return kept, dropped


def _first_equal(digests: Digests) -> npt.NDArray[np.intp]:
    """For each row the first that is equal to it, which may be itself."""
    first = np.arange(len(digests))
    order = np.argsort(digests[:, 0])
    equal = digests[order[1:], 0] == digests[order[:-1], 0]
    seen: dict[tuple[int, int], int] = {}
    for index in np.union1d(order[1:][equal], order[:-1][equal]).tolist():
        first[index] = seen.setdefault(tuple(digests[index].tolist()), index)
    return first


def split_rows(sources: Sequence[SourceRows], seed: int) -> dict[str, Side]:
    """The side of every row, by row id.

    Rows that share a group of one task, or of which one asks what another answers, form a unit that stays
    whole, across sources too. A source's units, in the order of their seeded hash, are cut at its shares: the
    counts are exact, less what an earlier source has already placed.

    Raises:
        DataError: a source has too few units for its shares.
    """
    units = _units([row for source in sources for row in source.rows])
    sides: dict[Hashable, Side] = {}
    for source in sources:
        mine = {units.find(row.id): None for row in source.rows}
        if mine:
            names = _names(units, source.rows)
            ordered = sorted(mine, key=lambda unit: _hash(seed, *names[unit]))
            _place(source, ordered, sides)
    return {row.id: sides[units.find(row.id)] for source in sources for row in source.rows}


def cap_rows(rows: Sequence[Row], cap: int | None, *, dealt: bool, seed: int) -> list[Row]:
    """At most `cap` rows in their former order.

    Args:
        rows: those of one source on one side.
        cap: none: all.
        dealt: the source deals its rows like cards, so that the first ones are already an even, seeded draw;
            any other source's are drawn by seed, evenly over groups.
        seed: of the draw.
    """
    if cap is None or dealt or len(rows) <= cap:
        return list(rows[:cap])
    by_group: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: _hash(seed, row.id)):
        by_group[row.group].append(row)
    turns = [
        (turn, _hash(seed, group), row.id)
        for group, each in by_group.items()
        for turn, row in enumerate(each)
    ]
    chosen = {row_id for _, _, row_id in sorted(turns)[:cap]}
    return [row for row in rows if row.id in chosen]


def check_leaks(splits: Mapping[Side, Sequence[Row]]) -> None:
    """Prove that no two splits share a group, and that none asks what another answers.

    Raises:
        IntegrityError: names two rows.
    """
    for side in SIDES:
        known = {key: row for row in splits[side] for key in answered(row.messages)}
        groups = {(row.task, row.group): row for row in splits[side]}
        for other in SIDES:
            for row in splits[other] if other != side else ():
                twin = known.get(asked(row.messages)) or groups.get((row.task, row.group))
                if twin is not None:
                    what = "prompt" if asked(row.messages) in known else f"group {row.group!r}"
                    raise IntegrityError(
                        f"the same {what} is in {side} and {other}: {twin.source}:{twin.line} and"
                        f" {row.source}:{row.line}; the split leaks, so nothing measured on it would count"
                    )


def _place(source: SourceRows, ordered: Sequence[Hashable], sides: dict[Hashable, Side]) -> None:
    targets = _targets(source, len(ordered))
    for unit in ordered:
        if unit in sides:
            targets[sides[unit]] -= 1
    free = iter([unit for unit in ordered if unit not in sides])
    for side in ("test", "validation", "train"):
        for unit in islice(free, max(0, targets[side])):
            sides[unit] = side
    found = {sides[unit] for unit in ordered}
    for side, target in _targets(source, len(ordered)).items():
        if target and side not in found:
            raise DataError(
                f"source {source.name!r}: no group is left for {side}: its rows share prompts or groups with"
                " sources listed before it; list it first, or give both the same shares"
            )


def _targets(source: SourceRows, num_units: int) -> dict[Side, int]:
    """How many units each side gets; a share above zero gets one at least."""
    shares: dict[Side, float] = {"test": source.split.test, "validation": source.split.validation}
    targets = {side: max(1, round(share * num_units)) if share else 0 for side, share in shares.items()}
    targets["train"] = num_units - sum(targets.values())
    if targets["train"] < 1:
        needed = 1 + sum(1 for share in shares.values() if share)
        by = f"group_by {source.split.group_by!r}" if source.split.group_by else "rows as groups"
        raise DataError(
            f"source {source.name!r}: {num_units} group(s) ({by}; groups with a common prompt count as one)"
            f" cannot be split by test {source.split.test} and validation {source.split.validation}, which"
            f" needs {needed} at least; add data, group by another field, or lower the shares"
        )
    return targets


@dataclass
class DisjointSets:
    """Union-find with path halving (Tarjan and van Leeuwen 1984)."""

    parent: dict[Hashable, Hashable] = field(default_factory=dict)

    def find(self, item: Hashable) -> Hashable:
        parent = self.parent
        parent.setdefault(item, item)
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    def join(self, a: Hashable, b: Hashable) -> None:
        self.parent[self.find(a)] = self.find(b)


def _units(rows: Sequence[Row]) -> DisjointSets:
    units = DisjointSets()
    asked_prompts: set[PromptKey] = {asked(row.messages) for row in rows}
    for row in rows:
        units.join(row.id, ("group", row.task, row.group))
        for key in answered(row.messages):
            if key in asked_prompts:
                units.join(row.id, ("prompt", key))
    return units


def _names(units: DisjointSets, rows: Sequence[Row]) -> dict[Hashable, tuple[str, str]]:
    """A name for each unit that does not depend on the order of rows: its first group."""
    names: dict[Hashable, tuple[str, str]] = {}
    for row in rows:
        unit, name = units.find(row.id), (row.task, row.group)
        names[unit] = min(names.get(unit, name), name)
    return names


def _hash(seed: int, *parts: str) -> bytes:
    return hashlib.sha256("\0".join([str(seed), *parts]).encode()).digest()
