from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from tunebook_data.mixture import copy_of, drawn, repeats
from tunebook_data.rows import Row

MakeRow = Callable[..., Row]


def seen(rows: list[Row], weight: float, seed: int = 0) -> list[tuple[str, str]]:
    """The id of every row that an epoch sees, and what it says."""
    once = drawn(rows, weight, dealt=False, seed=seed)
    shown = repeats(once, weight, dealt=False, seed=seed)
    copies = [copy_of(row, repeat) for repeat, each in enumerate(shown, start=2) for row in each]
    return [(row.id, row.messages[0]["content"]) for row in (*once, *copies)]


@pytest.mark.parametrize(
    ("weight", "times"),
    [
        (0.5, {0: 5, 1: 5}),
        (0.01, {0: 9, 1: 1}),
        (1.0, {1: 10}),
        (2.0, {2: 10}),
        (2.5, {2: 5, 3: 5}),
        (3.0, {3: 10}),
    ],
)
def test_a_weight_says_how_often_rows_are_seen(
    make_row: MakeRow, weight: float, times: dict[int, int]
) -> None:
    rows = [make_row(f"Question {n}?") for n in range(10)]
    found = seen(rows, weight)
    by_text = Counter(text for _, text in found)
    assert Counter(by_text[f"Question {n}?"] for n in range(10)) == times
    assert len({row_id for row_id, _ in found}) == len(found)
    assert seen(rows, weight) == found


def test_another_seed_draws_others_and_every_group_gets_its_turn(make_row: MakeRow) -> None:
    rows = [make_row(f"Question {n}?", group=f"g{n % 5}") for n in range(40)]
    assert set(seen(rows, 0.5)) != set(seen(rows, 0.5, seed=1))
    groups = Counter(row.group for row in drawn(rows, 0.5, dealt=False, seed=0))
    assert groups == dict.fromkeys(groups, 4)
    assert len(groups) == 5
