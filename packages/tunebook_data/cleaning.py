"""What a split's training rows lose before they are trained on: near copies, and what knows the test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tunebook_data.copies import Copies
from tunebook_data.decontaminate import HeldOut, Match, find_leaks
from tunebook_data.near_duplicates import near_duplicates
from tunebook_data.rejects import Leak
from tunebook_data.rows import Row
from tunebook_data.stored_rows import Numbers, taken
from tunebook_data.workers import HERE, Workers
from tunebook_spec.data import Data

WARN_SHARE = 0.1
"""A rule that drops more of the training rows than this is told: it may have met a template."""


@dataclass(frozen=True)
class Cleaned:
    """Training rows by number; each is under exactly one of the first three."""

    kept: Numbers
    near_duplicates: Numbers
    contaminated: Numbers
    duplicates: Copies
    leaks: tuple[Leak, ...]
    """One for each that is contaminated."""
    warnings: tuple[str, ...]


def clean_train(
    train: Sequence[Row], held_out: Sequence[HeldOut], data: Data, workers: Workers = HERE
) -> Cleaned:
    """Drop what `data.dedup` and then what `data.decontaminate` finds among the training rows."""
    copies = near_duplicates(train, data.dedup.near, workers) if data.dedup else {}
    near = np.fromiter(copies, np.intp, len(copies))
    firsts = np.array([first for first, _ in copies.values()], np.intp)
    similarities = np.array([similarity for _, similarity in copies.values()])
    rest = np.setdiff1d(np.arange(len(train)), near, assume_unique=True)
    single = taken(train, rest)
    found = find_leaks(single, held_out, data.decontaminate, workers) if data.decontaminate else {}
    contaminated = rest[np.fromiter(found, np.intp, len(found))]
    leaks = tuple(
        _leak(train[i], match) for i, match in zip(contaminated.tolist(), found.values(), strict=True)
    )
    return Cleaned(
        kept=np.setdiff1d(rest, contaminated, assume_unique=True),
        near_duplicates=near,
        contaminated=contaminated,
        duplicates=Copies("near", train, near, firsts, similarities),
        leaks=leaks,
        warnings=_warnings(len(train), len(near), len(leaks)),
    )


def _leak(row: Row, match: Match) -> Leak:
    return Leak(row.source, row.line, match.item.name, match.rule, round(match.overlap, 4))


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
