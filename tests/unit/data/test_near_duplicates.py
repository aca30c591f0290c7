from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from tunebook_data.near_duplicates import jaccard, near_copies, near_duplicates, said, shingles
from tunebook_data.rows import Row

MakeRow = Callable[..., Row]
BASE = "the quick brown fox jumps over the lazy dog while nine grey cats sleep under a warm tin roof"


def test_a_row_with_a_word_changed_copies_the_first_of_its_kind(make_row: MakeRow) -> None:
    rows = [
        make_row("Something else entirely is asked here, is it not?", "Indeed, and answered so."),
        make_row(BASE),
        make_row(BASE.replace("roof", "porch")),
        make_row(BASE.upper() + "!"),
    ]
    found = near_duplicates(rows, 0.8)
    assert {i: copied for i, (copied, _) in found.items()} == {2: 1, 3: 1}
    assert found[3][1] == 1.0
    assert found[2][1] == jaccard(shingles(said(rows[1].messages)), shingles(said(rows[2].messages))) < 1


def test_a_chain_is_one_cluster_and_its_smallest_index_stands_for_it(make_row: MakeRow) -> None:
    """0 resembles 2 and 2 resembles 1, but 0 and 1 are below the threshold."""
    words = [f"w{n}" for n in range(40)]
    ends = ["x1 x2 x3".split(), "y1 y2 y3".split()]
    middle = make_row(" ".join(words))
    first, second = make_row(" ".join([*words, *ends[0]])), make_row(" ".join([*ends[1], *words]))
    near = 0.9
    assert jaccard(*(shingles(said(row.messages)) for row in (first, second))) < near
    found = near_duplicates([first, second, middle], near)
    assert {i: copied for i, (copied, _) in found.items()} == {1: 0, 2: 0}
    assert found[1][1] < near <= found[2][1]


def test_the_same_rows_give_the_same_clusters_and_the_order_decides_who_stays(make_row: MakeRow) -> None:
    rng = random.Random(0)
    texts = [" ".join(f"w{rng.randrange(60)}" for _ in range(40)) for _ in range(30)]
    rows = [make_row(f"{text} v{n}") for text in texts for n in range(3)]
    found = near_duplicates(rows, 0.8)
    assert found == near_duplicates(rows, 0.8)
    assert {i: copied for i, (copied, _) in found.items()} == {
        i: i - i % 3 for i in range(len(rows)) if i % 3
    }
    turned = near_duplicates(rows[::-1], 0.8)
    assert len(turned) == len(found)


def test_a_candidate_below_the_threshold_is_kept(make_row: MakeRow) -> None:
    rows = [make_row(BASE), make_row(BASE.replace("roof", "porch"))]
    similarity = jaccard(*(shingles(said(row.messages)) for row in rows))
    assert near_duplicates(rows, similarity)
    assert not near_duplicates(rows, similarity + 0.001)


def test_rows_of_two_tasks_and_rows_without_words_are_no_copies(make_row: MakeRow) -> None:
    row, wordless = make_row(BASE), make_row("?!", "...")
    assert not near_duplicates([row, replace(row, task="other"), wordless, wordless], 0.5)


def test_the_system_message_is_no_likeness(make_row: MakeRow) -> None:
    system = {"role": "system", "content": BASE}
    rows = [make_row(f"Ask {n}?", f"Tell {n} twice.") for n in range(2)]
    rows = [replace(row, messages=(system, *row.messages)) for row in rows]
    assert not near_duplicates(rows, 0.3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One, two; THREE four.", {"one two three", "two three four"}),
        ("One two", {"one two"}),
        ("?!", set()),
        ("2+2", {"2 + 2"}),
        ("2-2", {"2 - 2"}),
        ("日本語です", {"日 本 語", "本 語 で", "語 で す"}),
    ],
)
def test_shingles_are_runs_of_three_words(text: str, expected: set[str]) -> None:
    assert shingles([text]) == expected


def test_no_shingle_runs_over_two_messages() -> None:
    assert shingles(["a b c", "d e f"]) == {"a b c", "d e f"}


def words_of(**counts: int) -> str:
    return " ".join(f"{letter}{n}" for letter, count in counts.items() for n in range(count))


def test_a_generated_row_is_compared_with_its_kin_even_where_the_hashing_finds_nothing(
    make_row: MakeRow,
) -> None:
    parent = make_row(words_of(w=40))
    of_parent = make_row(words_of(w=24, x=16))
    assert near_copies([parent, of_parent], {1: None}, 0.3) == {}
    assert near_copies([parent, of_parent], {1: 0}, 0.3) == {1: (0, pytest.approx(0.4286, abs=1e-4))}
    first, sibling = make_row(words_of(z=24, x=24)), make_row(words_of(y=14, x=24))
    assert near_copies([parent, first, sibling], {1: 0, 2: None}, 0.3) == {}
    found = near_copies([parent, first, sibling], {1: 0, 2: 0}, 0.3)
    assert found == {2: (1, pytest.approx(0.3871, abs=1e-4))}


def test_a_copy_is_none_that_later_rows_are_compared_with(make_row: MakeRow) -> None:
    parent, copy = make_row(words_of(w=40)), make_row(words_of(w=40, x=4))
    copy_of_copy = make_row(words_of(w=40, x=12))
    assert near_copies([parent, copy, copy_of_copy], {1: 0, 2: 0}, 0.85).keys() == {1}
    assert near_copies([parent, copy_of_copy], {1: 0}, 0.85) == {}
