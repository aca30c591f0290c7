from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tunebook_data.decontaminate import BOILERPLATE_GROUPS, HeldOut, Match, find_leaks
from tunebook_data.rows import Row
from tunebook_data.suites import load_replay_prompts, load_suite
from tunebook_spec.data import Decontaminate

MakeRow = Callable[..., Row]
RULES = Decontaminate()
ITEM = (
    "A train leaves the harbour at nine in the morning and meets a second one at noon near the old mill; "
    "how far apart were both of them when the first one had left?"
)


def only(found: dict[int, Match]) -> tuple[int, Match]:
    (each,) = found.items()
    return each


@pytest.mark.parametrize("question", ["What is 10+10?", " what  is 10+10?\n"])
def test_a_question_of_a_suite_is_met_whatever_its_case_and_spacing(make_row: MakeRow, question: str) -> None:
    rows = [make_row("What is 10-10?", "It is certainly 0."), make_row(question, "It is certainly 20.")]
    i, match = only(find_leaks(rows, [HeldOut.of_text("suite", "What is 10+10?")], RULES))
    assert (i, match.rule, match.overlap, match.item.name) == (1, "exact", 1.0, "suite")


def test_a_question_is_met_in_a_later_turn_too(make_row: MakeRow) -> None:
    first = make_row("Hello there, friend?").messages
    row = replace(make_row("x"), messages=(*first, *make_row("What is 10+10?").messages))
    _, match = only(find_leaks([row], [HeldOut.of_text("suite", "What is 10+10?")], RULES))
    assert match.rule == "exact"


def test_a_row_that_holds_half_of_an_item_is_met_by_its_ngrams(make_row: MakeRow) -> None:
    words = ITEM.split()
    half, less = " ".join(words[: len(words) // 2]), " ".join(words[: len(words) // 2 - 1])
    item = HeldOut.of_text("item", ITEM)
    rows = [make_row(f"Please go on with this tale: {less} ..."), make_row(f"Please go on with this: {half}")]
    i, match = only(find_leaks(rows, [item], RULES))
    assert (i, match.rule) == (1, "ngram")
    assert match.overlap == (len(words) // 2) / len(words)
    assert not find_leaks(rows, [item], Decontaminate(ngram_overlap=0.6))
    assert not find_leaks(rows, [item], Decontaminate(ngram_words=20))


def test_an_answer_that_holds_a_test_answer_is_met(make_row: MakeRow) -> None:
    held = HeldOut.of_row("test", make_row("Tell it.", ITEM, line=9))
    row = make_row("Some other thing to ask of you", f"Well now. {ITEM} That is all.")
    _, match = only(find_leaks([row], [held], RULES))
    assert (match.rule, match.item.name) == ("ngram", "test rows.jsonl:9")


def test_an_ngram_of_many_training_groups_is_boilerplate(make_row: MakeRow) -> None:
    """Rows of a template share it with the test rows of that template, by design."""
    held = HeldOut.of_row("test", make_row(f"{ITEM} Case zero", "Nought."))
    rows = [make_row(f"{ITEM} Case {n * 11} and more", f"{n}.") for n in range(BOILERPLATE_GROUPS + 1)]
    ngram_only = Decontaminate(near=1)
    assert not find_leaks(rows, [held], ngram_only)
    assert len(find_leaks(rows[1:], [held], ngram_only)) == BOILERPLATE_GROUPS
    kin = [replace(row, group="one") for row in rows]
    assert len(find_leaks(kin, [held], ngram_only)) == len(kin), "rows of one group count once"


def test_a_near_copy_of_a_prompt_or_of_a_whole_row_is_met(make_row: MakeRow) -> None:
    prompt = "Which of the seven seas is the one with the most salt in all of its water, roughly speaking?"
    near = prompt.replace("speaking", "told")
    held = HeldOut.of_row("test", make_row(prompt, "The Dead Sea."))
    rules = Decontaminate(ngram_overlap=1, near=0.7)
    other_answer = make_row(near, "An answer that was written by somebody else, and at some length too.")
    _, match = only(find_leaks([other_answer], [held], rules))
    assert match.rule == "near"
    assert 0.7 <= match.overlap < 1
    assert not find_leaks([other_answer], [held], Decontaminate(ngram_overlap=1, near=match.overlap + 0.01))
    short = HeldOut.of_row("test", make_row("Go on.", prompt))
    _, match = only(find_leaks([make_row("Do go on.", near)], [short], rules))
    assert match.rule == "near"


def test_the_first_rule_that_applies_is_told_and_the_greatest_overlap(make_row: MakeRow) -> None:
    items = [HeldOut.of_text("part", f"{ITEM} {ITEM[::-1]}"), HeldOut.of_text("whole", ITEM)]
    _, match = only(find_leaks([make_row(f"Now: {ITEM}")], items, RULES))
    assert (match.rule, match.item.name, match.overlap) == ("ngram", "whole", 1.0)
    _, match = only(find_leaks([make_row(ITEM)], items, RULES))
    assert match.rule == "exact"


def test_the_system_message_that_all_rows_share_is_no_leak(make_row: MakeRow) -> None:
    system = {"role": "system", "content": ITEM}
    train, test = make_row("Ask one?", "Tell one at least."), make_row("Ask two?", "Tell two or more.")
    train, test = (replace(row, messages=(system, *row.messages)) for row in (train, test))
    assert not find_leaks([train], [HeldOut.of_row("test", test)], RULES)


def test_nothing_that_ships_to_be_rehearsed_is_near_the_suite(make_row: MakeRow) -> None:
    items = [HeldOut.of_text(item.id, item.q) for item in load_suite("general")]
    rows = [make_row(prompt) for prompt in load_replay_prompts()]
    assert len(rows) > 200
    assert not find_leaks(rows, items, RULES)
