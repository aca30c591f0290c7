"""What a split's training rows lose before they are trained on: near copies, and what knows the test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunebook_data.decontaminate import HeldOut, find_leaks
from tunebook_data.near_duplicates import near_duplicates
from tunebook_data.rejects import Duplicate, Leak
from tunebook_data.rows import Row
from tunebook_data.workers import HERE, Workers
from tunebook_spec.models import Data

WARN_SHARE = 0.1
"""A rule that drops more of the training rows than this is told: it may have met a template."""


@dataclass(frozen=True)
class Cleaned:
    kept: frozenset[str]
    """Ids of the training rows that stay; every other row is under exactly one of the next two."""
    near_duplicate_ids: frozenset[str]
    contaminated_ids: frozenset[str]
    duplicates: tuple[Duplicate, ...]
    leaks: tuple[Leak, ...]
    warnings: tuple[str, ...]


def clean_train(
    train: Sequence[Row], held_out: Sequence[HeldOut], data: Data, workers: Workers = HERE
) -> Cleaned:
    """Drop what `data.dedup` and then what `data.decontaminate` finds among the training rows."""
    copies = near_duplicates(train, data.dedup.near, workers) if data.dedup else {}
    single = [row for i, row in enumerate(train) if i not in copies]
    found = find_leaks(single, held_out, data.decontaminate, workers) if data.decontaminate else {}
    leaks = tuple(
        Leak(single[i].source, single[i].line, match.item.name, match.rule, round(match.overlap, 4))
        for i, match in found.items()
    )
    return Cleaned(
        kept=frozenset(row.id for i, row in enumerate(single) if i not in found),
        near_duplicate_ids=frozenset(train[i].id for i in copies),
        contaminated_ids=frozenset(single[i].id for i in found),
        duplicates=tuple(
            Duplicate.of("near", train[i], train[first], similarity)
            for i, (first, similarity) in copies.items()
        ),
        leaks=leaks,
        warnings=_warnings(len(train), len(copies), len(leaks)),
    )


def _warnings(num_rows: int, num_copies: int, num_leaks: int) -> tuple[str, ...]:
    told = (
        (num_copies, "nearly repeat another one", "duplicates.jsonl", "data.dedup"),
        (num_leaks, "contain what is held out", "leaks.jsonl", "data.decontaminate"),
    )
    return tuple(
        f"{count} of {num_rows} training rows {what} and are dropped ({file} lists them); if a template makes"
        f" them alike on purpose, raise the thresholds of {key} or set it to null"
        for count, what, file, key in told
        if count > WARN_SHARE * num_rows
    )
