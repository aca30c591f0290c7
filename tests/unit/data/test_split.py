from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from pydantic import ValidationError

from tunebook_data.rows import Row
from tunebook_data.split import SIDES, Side, SourceRows, cap_rows, check_leaks, drop_duplicates, split_rows
from tunebook_spec.data import Split
from tunebook_spec.errors import DataError, IntegrityError

MakeRow = Callable[..., Row]


def by_id(sources: list[SourceRows], seed: int) -> dict[str, Side]:
    """The side of each row by its id."""
    sides = split_rows(sources, seed)
    return {
        row.id: SIDES[side]
        for source, each in zip(sources, sides, strict=True)
        for row, side in zip(source.rows, each, strict=True)
    }


def by_side(sources: list[SourceRows], seed: int) -> dict[Side, list[Row]]:
    sides = by_id(sources, seed)
    return {side: [row for each in sources for row in each.rows if sides[row.id] == side] for side in SIDES}


def grouped(make_row: MakeRow, groups: int, per_group: int, task: str = "task") -> list[Row]:
    return [
        make_row(f"{task} {g} {i}?", group=f"g{g}", task=task, id=f"{task}-{g}-{i}")
        for g in range(groups)
        for i in range(per_group)
    ]


def random_rows(make_row: MakeRow, rng: random.Random, name: str, task: str) -> list[Row]:
    """Rows whose questions and groups collide, within a source and across sources."""
    return [
        make_row(
            rng.choice(["what is {}?", "WHAT  is {}?"]).format(rng.randrange(600)),
            f"answer {index} of {name}",
            group=f"g{rng.randrange(300)}",
            task=task,
            id=f"{name}-{index}",
        )
        for index in range(120)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_no_prompt_and_no_group_is_on_two_sides_whatever_collides(make_row: MakeRow, seed: int) -> None:
    rng = random.Random(seed)
    sources = [
        SourceRows(name, Split(test=0.2, validation=0.1), random_rows(make_row, rng, name, task))
        for name, task in (("a", "task"), ("b", "task"), ("c", "other"))
    ]
    splits = by_side(sources, seed)
    questions = {
        side: {" ".join(row.messages[0]["content"].casefold().split()) for row in rows}
        for side, rows in splits.items()
    }
    groups = {side: {(row.task, row.group) for row in rows} for side, rows in splits.items()}
    for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
        assert not questions[one] & questions[other]
        assert not groups[one] & groups[other]
    assert sum(map(len, splits.values())) == 360
    check_leaks(splits)


@pytest.mark.parametrize("seed", range(5))
def test_shares_are_exact_in_groups(make_row: MakeRow, seed: int) -> None:
    rows = grouped(make_row, groups=40, per_group=3)
    splits = by_side([SourceRows("a", Split(test=0.15, validation=0.05), rows)], seed)
    counts = {side: len({row.group for row in rows}) for side, rows in splits.items()}
    assert counts == {"train": 32, "validation": 2, "test": 6}


def test_a_small_share_still_gets_one_group(make_row: MakeRow) -> None:
    rows = grouped(make_row, groups=3, per_group=1)
    splits = by_side([SourceRows("a", Split(test=0.01, validation=0.01), rows)], 0)
    assert {side: len(rows) for side, rows in splits.items()} == {"train": 1, "validation": 1, "test": 1}


def test_too_few_groups_are_refused_with_the_number_needed(make_row: MakeRow) -> None:
    rows = grouped(make_row, groups=2, per_group=50)
    with pytest.raises(DataError, match=r"'notes': 2 group\(s\) \(group_by 'term'.* needs 3 at least"):
        by_id([SourceRows("notes", Split(group_by="term"), rows)], 0)


def test_a_share_of_zero_gets_nothing(make_row: MakeRow) -> None:
    rows = grouped(make_row, groups=1, per_group=4)
    splits = by_side([SourceRows("a", Split(test=0, validation=0), rows)], 0)
    assert {side: len(rows) for side, rows in splits.items()} == {"train": 4, "validation": 0, "test": 0}


def test_a_source_may_be_there_to_be_tested_alone(make_row: MakeRow) -> None:
    rows = grouped(make_row, 4, 2)
    splits = by_side([SourceRows("a", Split(test=1, validation=0), rows)], 0)
    assert {side: len(rows) for side, rows in splits.items()} == {"train": 0, "validation": 0, "test": 8}
    with pytest.raises(ValidationError, match="or one of them 1 and the other 0"):
        Split(test=1, validation=0.05)


def test_a_source_may_be_there_to_validate_alone(make_row: MakeRow) -> None:
    rows = grouped(make_row, 4, 2)
    splits = by_side([SourceRows("a", Split(test=0, validation=1), rows)], 0)
    assert {side: len(rows) for side, rows in splits.items()} == {"train": 0, "validation": 8, "test": 0}


def test_the_split_follows_from_the_seed_and_not_from_the_order_of_rows(make_row: MakeRow) -> None:
    rows = grouped(make_row, groups=30, per_group=2)
    split = Split(test=0.3)
    first = by_id([SourceRows("a", split, rows)], 1)
    assert by_id([SourceRows("a", split, rows[::-1])], 1) == first
    assert by_id([SourceRows("a", split, rows)], 2) != first


def test_one_group_in_two_sources_stays_on_one_side(make_row: MakeRow) -> None:
    first = grouped(make_row, groups=20, per_group=1)
    second = [
        replace(row, id=f"second {row.id}", messages=make_row(f"second {row.id}").messages) for row in first
    ]
    split = Split(test=0.25, validation=0.1)
    sides = by_id([SourceRows("a", split, first), SourceRows("b", split, second)], 0)
    assert all(sides[row.id] == sides[f"second {row.id}"] for row in first)
    assert Counter(sides.values()) == {"train": 26, "test": 10, "validation": 4}


def test_an_earlier_turn_that_answers_a_test_prompt_joins_it(make_row: MakeRow) -> None:
    asked = make_row("Is it blue?", id="asked")
    follow_up = make_row("And at night?")
    longer = replace(follow_up, id="longer", messages=(*asked.messages, *follow_up.messages))
    others = grouped(make_row, groups=10, per_group=1)
    for seed in range(10):
        sides = by_id([SourceRows("a", Split(test=0.4), [asked, *others, longer])], seed)
        assert sides["asked"] == sides["longer"]


def test_a_later_source_whose_rows_are_all_placed_elsewhere_is_refused(make_row: MakeRow) -> None:
    first = grouped(make_row, groups=10, per_group=1)
    sides = by_id([SourceRows("a", Split(test=0.2, validation=0), first)], 0)
    in_train = [row for row in first if sides[row.id] == "train"]
    second = [replace(row, id=f"second {row.id}") for row in in_train]
    with pytest.raises(DataError, match="'b': no group is left for test"):
        by_id(
            [
                SourceRows("a", Split(test=0.2, validation=0), first),
                SourceRows("b", Split(validation=0), second),
            ],
            0,
        )


def test_equal_conversations_are_dropped_over_sources_but_not_over_tasks(make_row: MakeRow) -> None:
    row = make_row("Is it blue?")
    kept, dropped = drop_duplicates(
        [
            SourceRows("a", Split(), [row, replace(row, line=2)]),
            SourceRows(
                "b", Split(), [row, make_row("Is it blue?", "No, it is red."), replace(row, task="other")]
            ),
        ]
    )
    assert [len(source.rows) for source in kept] == [1, 2]
    assert kept[0].rows[0].line == 1
    assert [(each.line, each.copy_of_line, each.kind) for each in dropped] == [
        (2, 1, "exact"),
        (1, 1, "exact"),
    ]


@pytest.mark.parametrize("shared", ["prompt", "group"])
def test_a_leak_is_told_with_both_rows(make_row: MakeRow, shared: str) -> None:
    trained = make_row("Is it blue?", line=4, group="g1")
    question = "is IT  blue?" if shared == "prompt" else "Is it red?"
    asked = make_row(question, line=9, group="g2" if shared == "prompt" else "g1")
    with pytest.raises(
        IntegrityError, match=rf"same {shared}.* train and test: rows\.jsonl:4 and rows\.jsonl:9"
    ):
        check_leaks({"train": [trained], "validation": [], "test": [asked]})


def test_a_cap_is_drawn_by_seed_evenly_over_groups(make_row: MakeRow) -> None:
    rows = grouped(make_row, groups=4, per_group=25) + grouped(make_row, groups=1, per_group=2, task="small")
    rows[-2:] = [replace(row, group="small") for row in rows[-2:]]
    capped = cap_rows(rows, 22, dealt=False, seed=0)
    assert Counter(row.group for row in capped) == {"g0": 5, "g1": 5, "g2": 5, "g3": 5, "small": 2}
    assert capped == [row for row in rows if row in capped]
    assert cap_rows(rows, 22, dealt=False, seed=1) != capped
    assert cap_rows(rows, 200, dealt=False, seed=0) == rows


def test_a_dealt_source_is_capped_to_its_first_rows(make_row: MakeRow) -> None:
    rows = grouped(make_row, groups=4, per_group=5)
    assert cap_rows(rows, 7, dealt=True, seed=0) == rows[:7]
