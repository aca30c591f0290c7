"""Mixtures: how often an epoch sees a source's training rows, by the weight of the source.

A weight of 2 shows each row twice, 0.5 half of them once, 2.5 each twice and half of them a third time. Which
half is drawn by seed, the same in every epoch, and of the distinct rows that checks and caps leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tunebook_data.rows import Row
from tunebook_data.split import cap_rows


def drawn(rows: Sequence[Row], weight: float, *, dealt: bool, seed: int) -> list[Row]:
    """The rows that are seen at all: a share of them where the weight is below 1, one row at least."""
    cap = max(1, round(weight * len(rows))) if weight < 1 else None
    return cap_rows(rows, cap, dealt=dealt, seed=seed)


def repeats(rows: Sequence[Row], weight: float, *, dealt: bool, seed: int) -> list[tuple[Row, Row]]:
    """What is seen beside the rows themselves: a row and its copy, which has an id of its own."""
    copies: list[tuple[Row, Row]] = []
    repeat = 2
    while weight - repeat + 1 > 0:
        share = min(1, weight - repeat + 1)
        shown = cap_rows(rows, round(share * len(rows)), dealt=dealt, seed=seed)
        copies += [(row, replace(row, id=f"{row.id}-{repeat}")) for row in shown]
        repeat += 1
    return copies
