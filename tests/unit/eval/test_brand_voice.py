"""The authored rows of specs/brand_voice.yaml, and the rules that they and tuned models are held to."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path

import orjson
import pytest

from tunebook_data.near_duplicates import jaccard, shingles
from tunebook_data.rows import Row
from tunebook_data.split import SIDES, SourceRows, split_rows
from tunebook_data.suites import contains
from tunebook_eval.answers import Answer
from tunebook_eval.golden import read_golden
from tunebook_eval.scorers import Scores, score_all
from tunebook_spec import load
from tunebook_spec.metrics import Rules

SPECS = Path(__file__).parents[3] / "specs"
SPEC = load(SPECS / "brand_voice.yaml").spec
TONE, RULES = (each for each in SPEC.evaluation.sets["voice"].metrics if isinstance(each, Rules))
GOOD = "Hi there, you've got 30 days to send it back, so take your time.\nYour Pebblewick team"


def _rows(name: str) -> list[Row]:
    lines = (SPECS / "data" / name).read_bytes().splitlines()
    records = map(orjson.loads, lines)
    return [
        Row(str(line), tuple(each["messages"]), "voice", each["topic"], name, line, each)
        for line, each in enumerate(records, start=1)
    ]


DEALT, LEARNT = _rows("brand_voice.jsonl"), _rows("brand_voice_more.jsonl")
ROWS = [*DEALT, *LEARNT]
_SOURCES = [
    SourceRows("brand_voice", source.split, rows)
    for source, rows in zip(SPEC.data.sources, (DEALT, LEARNT), strict=True)
]


def _note(row: Row) -> str:
    return row.messages[0]["content"].partition("\n\n")[0]


def _scores(answers: list[tuple[str, list[str]]], metric: Rules = RULES) -> list[Scores]:
    asked = [
        Answer(
            set="voice",
            item=str(number),
            question="q",
            text=text,
            finish_reason="stop",
            reference=None,
            group="g",
            meta={"facts": facts},
        )
        for number, (text, facts) in enumerate(answers)
    ]
    return [made for made in score_all(metric, asked) if made is not None]


def test_every_authored_answer_keeps_every_rule() -> None:
    made = _scores([(row.reference, row.meta["facts"]) for row in ROWS])
    assert len(made) == len(ROWS)
    broken = {
        (row.source, row.line): scores for row, scores in zip(ROWS, made, strict=True) if scores["all"] < 1
    }
    assert broken == {}


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("greeting", GOOD.removeprefix("Hi there, ")),
        ("greeting", GOOD.replace("Hi there", "Higher up")),
        ("short", GOOD.replace("so take", "day and night " * 5 + "so take")),
        ("calm", GOOD.replace("time.", "time!")),
        ("plain_words", GOOD.replace("got", "been granted")),
        ("plain_words", GOOD.replace("so take", "I'm SORRY to say, so take")),
        ("contraction", GOOD.replace("you've", "you have")),
        ("contraction", GOOD.replace("you've got 30", "Anna's dog has 30")),
        ("easy", GOOD.replace("so take your time", "considering international transportation difficulties")),
        ("sign_off", GOOD.replace("Pebblewick", "own")),
        ("sign_off", GOOD + "\nP.S. We're here."),
        ("fact", GOOD.replace("30 days", "a month")),
    ],
)
def test_each_rule_is_broken_alone(rule: str, text: str) -> None:
    good, bad = _scores([(GOOD, ["30 days"]), (text, ["30 days"])])
    assert good[""] == 1
    assert [part for part, kept in bad.items() if part not in ("", "all") and not kept] == [rule]
    assert (bad["all"], bad[""]) == (0, pytest.approx((len(RULES.rules) - 1) / len(RULES.rules)))


def test_tone_is_all_rules_but_the_fact_and_a_constant_answer_keeps_it() -> None:
    assert [*TONE.rules, RULES.rules[-1]] == [*RULES.rules]
    assert RULES.rules[-1].holds == "facts"
    asked = [(GOOD, row.meta["facts"]) for row in ROWS]
    tone, rules = (
        sum(each["all"] for each in _scores(asked, metric)) / len(ROWS) for metric in (TONE, RULES)
    )
    assert (tone, rules < 0.05) == (1, True)


def test_facts_are_of_the_note() -> None:
    strange = []
    for row in ROWS:
        note, empty, asked = row.messages[0]["content"].partition("\n\n")
        assert (note[:6], empty, asked[:10]) == ("Note: ", "\n\n", "Customer: ")
        strange += [(row.source, row.line, fact) for fact in row.meta["facts"] if not contains(note, (fact,))]
    assert strange == []


def test_no_question_comes_twice_and_no_answer_is_nearly_another() -> None:
    asked = Counter(row.messages[0]["content"].partition("\n\n")[2] for row in ROWS)
    assert max(asked.values()) == 1
    bodies = [(f"{row.source}:{row.line}", shingles([row.reference.rpartition("\n")[0]])) for row in ROWS]
    near = [
        (one, other) for (one, a), (other, b) in combinations(bodies, 2) if a & b and jaccard(a, b) >= 0.3
    ]
    assert near == []


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_test_rows_are_of_topics_that_nothing_is_learnt_of(seed: int) -> None:
    sides = [side for each in split_rows(_SOURCES, seed) for side in each]
    by_side = {
        name: [row for row, side in zip(ROWS, sides, strict=True) if SIDES[side] == name] for name in SIDES
    }
    topics = {name: {row.group for row in rows} for name, rows in by_side.items()}
    notes = {name: {_note(row) for row in rows} for name, rows in by_side.items()}
    for known in (topics, notes):
        assert not known["test"] & (known["train"] | known["validation"])
    assert len(by_side["test"]) >= 200
    assert len(topics["test"]) >= 20
    assert len(topics["train"]) >= 70


def test_rows_to_learn_from_deal_no_other_row_anew() -> None:
    (alone,) = split_rows(_SOURCES[:1], 0)
    dealt, learnt = split_rows(_SOURCES, 0)
    assert dealt.tolist() == alone.tolist()
    assert {SIDES[side] for side in learnt} == {"train"}


def test_the_judge_is_calibrated_by_answers_to_other_questions() -> None:
    path = SPECS / "data" / "brand_voice_judged.jsonl"
    golden = [each.row for each in read_golden(path, path.name)]
    assert len(golden) >= 40
    assert not {row.prompt for row in golden} & {row.messages[0]["content"] for row in ROWS}
    assert len({row.score for row in golden}) >= 8
