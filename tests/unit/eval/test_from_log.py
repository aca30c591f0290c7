from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tunebook_eval.evidence import ArmScores
from tunebook_eval.from_log import LogScores, describe, score_log
from tunebook_eval.inputs import EvaluateInputs
from tunebook_eval.sets import Item
from tunebook_eval.statistics import paired_p_value
from tunebook_run.traffic_log import LoggedAnswer

METRICS = EvaluateInputs.model_validate(
    {
        "metrics": {
            "colour": (
                "exact_match",
                "json_valid",
                {"kind": "judge", "judge": "critic", "criteria": {"a": "b"}},
            ),
            "other": ("exact_match",),
            "code": (
                {"kind": "code_ruff", "config": "", "defines": "signature"},
                {"kind": "code_doctests"},
            ),
            "texts": ("log_likelihood",),
        }
    }
).metrics
NUM = 12


def asking(number: int) -> str:
    return f"What colour is {number}? I am jane{number}@acme.org"


ITEMS = [
    Item(f"{n:03}", "colour", f"group {n // 3}", ({"role": "user", "content": asking(n)},), reference="blue")
    for n in range(NUM)
]


def row(number: int, text: str, *, content: str | None = None, **more: Any) -> LoggedAnswer:
    facts: dict[str, Any] = {
        "id": f"request {number}",
        "at": "2026-01-01T00:00:00Z",
        "asked": "tiny",
        "model": "tiny@2",
        "is_shadow": False,
        "messages": [{"role": "user", "content": asking(number) if content is None else content}],
        "finish_reason": "stop",
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "seconds": 0.1,
    }
    return LoggedAnswer.model_validate({**facts, **more, "text": text})


def score(*rows: LoggedAnswer, other_set: str = "colour") -> LogScores:
    return score_log(METRICS, rows, ITEMS, other_set=other_set)


def of(found: LogScores, metric: str, model: str = "tiny@2") -> ArmScores:
    (scores,) = [each for each in found.scores if (each.metric, each.arm) == (metric, model)]
    return scores


def test_a_test_rows_question_has_its_reference_masked_or_not() -> None:
    masked = row(1, "red", content="What colour is 1? I am [EMAIL]")
    found = score(row(0, "blue"), masked)
    assert of(found, "exact_match").scores == {"request 0": 1.0, "request 1": 0.0}
    assert (found.num_known, found.num_answers) == (2, {"tiny@2": 2})


def test_any_other_question_is_scored_by_what_needs_no_reference() -> None:
    found = score(row(0, "blue"), row(1, "{}", content="Write JSON."))
    assert set(of(found, "exact_match").scores) == {"request 0"}
    assert of(found, "json_valid").scores == {"request 0": 0.0, "request 1": 1.0}
    assert found.num_known == 1


def test_what_a_log_cannot_be_scored_by_is_told() -> None:
    found = score(row(0, "blue"))
    assert found.left_out == ("colour.judge", "texts.log_likelihood")
    assert " a log is not scored by colour.judge, texts.log_likelihood" in describe(found)


def test_failed_answers_are_unscored_and_streams_without_usage_have_no_length() -> None:
    failed = row(1, "", error="HTTP 503", finish_reason="error", completion_tokens=None)
    found = score(row(0, "blue"), failed, row(2, "blue", completion_tokens=None))
    assert set(of(found, "exact_match").scores) == {"request 0", "request 2"}
    assert of(found, "exact_match").num_unscored == 1
    assert of(found, "answer_tokens").scores == {"request 0": 2.0}
    assert set(of(found, "stop_rate").scores) == {"request 0", "request 2"}


@pytest.fixture
def shadowed() -> LogScores:
    """Of all requests but one the shadow was asked too, and it is right where the first is wrong."""
    rows = [row(n, "blue" if n < 2 else "red") for n in range(NUM)]
    rows += [row(n, "blue", model="tiny@3", is_shadow=True) for n in range(NUM - 1)]
    return score(*rows)


def test_a_shadow_is_paired_with_what_answered_the_same_request(shadowed: LogScores) -> None:
    (pair,) = shadowed.changes
    assert pair == ("tiny@2", "tiny@3")
    exact = next(each for each in shadowed.changes[pair] if each.metric == "exact_match")
    assert (exact.num_samples, exact.mean) == (NUM - 1, pytest.approx((NUM - 3) / (NUM - 1)))
    sides = [1.0] * (NUM - 1), [1.0 if n < 2 else 0.0 for n in range(NUM - 1)]
    assert exact.num_groups == 4
    assert exact.p_value == paired_p_value(*sides, [f"group {n // 3}" for n in range(NUM - 1)])


def test_equal_questions_without_a_reference_are_one_group() -> None:
    sides = [
        [row(n, "{}", content="Write JSON.", model=f"tiny@{m}", is_shadow=m == 3) for n in range(3)]
        for m in (2, 3)
    ]
    ((changes,),) = [score(*sides[0], *sides[1]).changes.values()]
    assert {(each.num_samples, each.num_groups) for each in changes} == {(3, 1)}


def test_a_question_of_two_sets_is_scored_by_both() -> None:
    items = [*ITEMS, replace(ITEMS[0], set="other", reference="red")]
    found = score_log(METRICS, [row(0, "blue")], items, other_set="colour")
    exact = {each.set: each.scores for each in found.scores if each.metric == "exact_match"}
    assert exact == {"colour": {"request 0": 1.0}, "other": {"request 0": 0.0}}
    assert (found.num_answers, found.num_known) == ({"tiny@2": 1}, 1)


def test_code_that_should_define_what_its_row_names_needs_that_row() -> None:
    found = score(row(0, "x = 1", content="Write code."), other_set="code")
    assert {each.metric for each in found.scores} == {"code_doctests", "stop_rate", "answer_tokens"}


def test_a_stream_without_usage_leaves_its_shadow_a_length() -> None:
    shadow = row(0, "blue", model="tiny@3", is_shadow=True)
    found = score(row(0, "blue", completion_tokens=None), shadow)
    assert of(found, "answer_tokens", "tiny@3").scores == {"request 0": 2.0}


def test_two_models_that_are_each_others_shadow_are_two_pairs() -> None:
    found = score(
        row(0, "blue"),
        row(0, "red", model="tiny@3", is_shadow=True),
        row(1, "blue", model="tiny@3"),
        row(1, "blue", is_shadow=True),
    )
    means = {
        pair: next(each.mean for each in changes if each.metric == "exact_match")
        for pair, changes in found.changes.items()
    }
    assert means == {("tiny@2", "tiny@3"): -1.0, ("tiny@3", "tiny@2"): 0.0}


def test_the_table_has_each_model_and_each_pair(shadowed: LogScores) -> None:
    text = describe(shadowed)
    assert text.splitlines()[0].split() == ["metric", "tiny@2", "tiny@3"]
    assert "tiny@3 minus tiny@2, on the same requests" in text
    assert " 23 answers: 12 of tiny@2, 11 of tiny@3; 23 to questions whose reference is known" in text
