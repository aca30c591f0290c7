"""Mixtures: how often an epoch sees a source's training rows, by the weight of the source.

A weight of 2 shows each row twice, 0.5 half of them once, 2.5 each twice and half of them a third time. Which
half is drawn by seed, the same in every epoch, and of the distinct rows that checks and caps leave.
"""

from __future__ import annotations

from dataclasses import replace

from tunebook_data.rows import Row
from tunebook_data.split import cap_rows
from tunebook_data.stored_rows import Some


def drawn(rows: Some, weight: float, *, dealt: bool, seed: int) -> Some:
    """The rows that are seen at all: a share of them where the weight is below 1, one row at least."""
    cap = max(1, round(weight * len(rows))) if weight < 1 else None
    return cap_rows(rows, cap, dealt=dealt, seed=seed)


def repeats(rows: Some, weight: float, *, dealt: bool, seed: int) -> list[Some]:
    """What is seen beside the rows themselves: those that are seen a second time, a third time, and so on."""
    shown: list[Some] = []
    while weight - len(shown) - 1 > 0:
        share = min(1, weight - len(shown) - 1)
        shown.append(cap_rows(rows, round(share * len(rows)), dealt=dealt, seed=seed))
    return shown


def copy_of(row: Row, repeat: int) -> Row:
    """A row as it is seen another time, the second being the first copy: with an id of its own."""
    return replace(row, id=f"{row.id}-{repeat}")
