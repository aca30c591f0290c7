from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import TypeAdapter

from tunebook_eval.answers import Answer
from tunebook_eval.scorers import Scores, score_all
from tunebook_spec.errors import StageError
from tunebook_spec.metrics import AnyMetric


def answered(text: str, reference: str | None = None, **more: Any) -> Answer:
    facts = {"set": "s", "item": "1", "question": "q", "group": "g", "finish_reason": "stop"}
    return Answer(**{**facts, **more, "text": text, "reference": reference})


def scores(metric: str | dict[str, Any], answer: Answer) -> Scores | None:
    (made,) = score_all(TypeAdapter(AnyMetric).validate_python(metric), [answer])
    return made


def score(metric: str | dict[str, Any], answer: Answer) -> float | None:
    made = scores(metric, answer)
    return None if made is None else made[""]


@pytest.mark.parametrize("text", ["", " \n", "```python\n```"])
def test_saying_nothing_earns_nothing(text: str) -> None:
    metrics: list[str | dict[str, Any]] = ["code_parses", {"kind": "code_ruff", "config": ""}]
    assert [score(each, answered(text)) for each in metrics] == [0.0, 0.0]


def test_no_rule_is_kept_by_saying_nothing() -> None:
    calm = {"name": "calm", "pattern": "!", "must": "not_match"}
    short = {"name": "short", "max_words": 3}
    metric = {"kind": "rules", "rules": [calm, short]}
    assert scores(metric, answered("")) == {"": 0.0, "all": 0.0, "calm": 0.0, "short": 0.0}
    assert scores(metric, answered("Yes.")) == {"": 1.0, "all": 1.0, "calm": 1.0, "short": 1.0}


REFERENCE = "AKI: acute kidney injury\nMRI: magnetic resonance imaging"
CHOICES = {"choices": ["renal colic", "acute renal colic", "heart failure", "stroke"]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (REFERENCE, 1.0),
        ("- MRI :  Magnetic Resonance Imaging.\n2. aki: acute kidney injury", 1.0),
        ("AKI: acute kidney injury", 0.5),
        (f"{REFERENCE}\nCT: computed tomography\nanything", 1.0),
        ("AKI: acute kidney injury\nAKI: acute knee injury\nMRI: magnetic resonance imaging", 0.5),
        ("AKI: acute kidney injury\nAKI: acute kidney injury", 0.5),
        ("The patient has acute kidney injury.", 0.0),
        ("", 0.0),
    ],
    ids=["same", "format", "half", "extra lines", "two meanings", "repeated", "prose", "empty"],
)
def test_line_match_counts_expected_lines(text: str, expected: float) -> None:
    assert score("line_match", answered(text, REFERENCE)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("heart failure", 1.0),
        ("It stands for Heart Failure.", 1.0),
        ("heart failure or stroke", 0.0),
        ("stroke", 0.0),
        ("I do not know", 0.0),
        ("heart failures", 0.0),
    ],
    ids=["alone", "in a sentence", "ambiguous", "wrong", "none", "part of a word"],
)
def test_choice_accuracy_wants_the_right_choice_and_no_other(text: str, expected: float) -> None:
    assert score("choice_accuracy", answered(text, "heart failure", meta=CHOICES)) == expected


def test_a_choice_inside_a_longer_named_choice_is_not_named() -> None:
    assert score("choice_accuracy", answered("acute renal colic", "acute renal colic", meta=CHOICES)) == 1.0
    assert score("choice_accuracy", answered("acute renal colic", "renal colic", meta=CHOICES)) == 0.0


@pytest.mark.parametrize(
    ("text", "expected"), [('  "blue  Sky." ', 1.0), ("blue", 0.0)], ids=["normalised", "different"]
)
def test_exact_match(text: str, expected: float) -> None:
    assert score("exact_match", answered(text, "Blue sky")) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("It is 4.", 1.0), ("It is 14.", 0.0)], ids=["has it", "14 is not 4"]
)
def test_contains_any_of_the_expected_strings(text: str, expected: float) -> None:
    assert score("contains", answered(text, expected=("four", "4"))) == expected


def test_log_likelihood_is_what_was_measured() -> None:
    assert score("log_likelihood", answered("", "a text", log_likelihood=-2.5)) == -2.5


@pytest.mark.parametrize(
    "metric",
    [
        *("line_match", "exact_match", "contains", "token_f1", "numeric", "json_valid", "code_parses"),
        {"kind": "regex", "pattern": "x"},
        {"kind": "rules", "rules": [{"name": "short", "max_words": 3}]},
        {"kind": "code_ruff", "config": ""},
    ],
    ids=str,
)
def test_a_failed_row_is_unscored_not_wrong(metric: str | dict[str, Any]) -> None:
    failed = answered("", "x", finish_reason="error", error="the prompt is too long")
    assert scores(metric, failed) is None


def test_exact_match_can_mean_every_character() -> None:
    strict = {"kind": "exact_match", "normalise": False}
    assert score(strict, answered("Blue", "Blue")) == 1.0
    assert score(strict, answered("blue", "Blue")) == 0.0


def test_contains_looks_for_the_reference_of_a_task() -> None:
    assert score("contains", answered("It is a kidney stone.", "kidney stone")) == 1.0
    assert score("contains", answered("It is a gall stone.", "kidney stone")) == 0.0


def test_choices_may_stand_in_the_spec_and_must_stand_somewhere() -> None:
    metric = {"kind": "choice_accuracy", "choices": ["refund", "password"]}
    assert score(metric, answered("Refund.", "refund")) == 1.0
    assert score(metric, answered("refund or password", "refund")) == 0.0
    with pytest.raises(StageError, match="nothing says what there is to choose from"):
        score("choice_accuracy", answered("refund", "refund"))


@pytest.mark.parametrize("choices", [[1, 2], "12", {"a": 1}, ["a", " "], 5], ids=repr)
def test_choices_of_a_row_that_are_no_list_of_texts_are_told(choices: object) -> None:
    with pytest.raises(StageError, match="a list of texts"):
        score("choice_accuracy", answered("1", "1", meta={"choices": choices}))


@pytest.mark.parametrize("reference", ["", " \n"], ids=repr)
def test_nothing_can_be_found_or_missed_where_nothing_is_expected(reference: str) -> None:
    assert scores("contains", answered("It is 4.", reference)) is None
    assert score("contains", answered("It is 4.", expected=(reference, "4"))) == 1.0


def test_a_list_of_what_an_answer_holds_has_no_empty_text() -> None:
    metric = {"kind": "rules", "rules": [{"name": "facts", "holds": "facts"}]}
    with pytest.raises(StageError, match=r"rule 'facts' needs a list of texts"):
        score(metric, answered("It is 4.", "4", meta={"facts": [" "]}))


DEEP = "[" * 900 + "1" + "]" * 900


def test_an_answer_that_nests_too_deeply_is_wrong_and_stops_nothing() -> None:
    assert score("json_fields", answered(f'{{"a": {DEEP}}}', '{"a": 1}')) == 0.0
    places = {"anyOf": [{"type": "number"}, {"type": "array", "items": {"$ref": "#"}}]}
    assert score({"kind": "json_schema", "answer_schema": places}, answered("[[1]]", "")) == 1.0
    assert score({"kind": "json_schema", "answer_schema": places}, answered(DEEP, "")) == 0.0


@pytest.mark.parametrize(
    ("text", "references", "f1"),
    [
        ("shortness of breath", ("Shortness of breath",), 1.0),
        ("the heart attack", ("heart attack",), 1.0),
        ("heart heart", ("heart attack",), 0.5),  # one shared word of 2 and 2
        ("a bad heart attack", ("heart attack",), 0.8),  # precision 2/3, recall 1
        ("kidney pain", ("heart attack", "kidney ache"), 0.5),
        ("", ("heart attack",), 0.0),
    ],
)
def test_token_f1_by_hand(text: str, references: tuple[str, ...], f1: float) -> None:
    assert score("token_f1", answered(text, expected=references)) == pytest.approx(f1)


def test_token_f1_takes_the_best_of_the_answers_that_a_row_lists() -> None:
    metric = {"kind": "token_f1", "references": "others"}
    listed = answered("dry mouth", "reduced spit", meta={"others": ["a dry mouth", "dryness"]})
    assert score(metric, listed) == 1.0
    assert score("token_f1", listed) == 0.0
    assert score(metric, answered("reduced spit", "reduced spit", meta={"others": ["dry mouth"]})) == 1.0


def test_embedding_similarity_is_the_cosine_with_the_nearest_reference_and_never_negative() -> None:
    places = {"kidney stone": (1, 0), "renal calculus": (0.6, 0.8), "broken arm": (-1, 0), "rock": (0, 1)}

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([places[text] for text in texts], np.float32)

    metric = TypeAdapter(AnyMetric).validate_python({"kind": "embedding_similarity", "references": "others"})
    meta = {"others": ["rock"]}
    answers = [
        answered("renal calculus", "kidney stone", meta={"others": ["broken arm"]}),
        answered("renal calculus", "kidney stone", meta=meta),
        answered("broken arm", "kidney stone", meta=meta),
        answered("", "kidney stone", meta=meta, finish_reason="error", error="refused"),
    ]
    found = [made and made[""] for made in score_all(metric, answers, embed)]
    assert found == [pytest.approx(0.6), pytest.approx(0.8), 0.0, None]


@pytest.mark.parametrize("meta", [{}, {"others": "dry mouth"}, {"others": []}, {"others": [1]}])
def test_rows_without_the_list_that_token_f1_reads_are_named(meta: dict[str, object]) -> None:
    metric = {"kind": "token_f1", "references": "others"}
    with pytest.raises(StageError, match=r"token_f1 needs a list of texts in the rows' field 'others'"):
        score(metric, answered("dry mouth", "dry mouth", meta=meta))


@pytest.mark.parametrize(
    ("text", "reference", "options", "expected"),
    [
        ("So 10-3 = 7", "7", {}, 1.0),
        ("It costs $1,234.50.", "1234.5", {}, 1.0),
        ("-4", "4", {}, 0.0),
        ("\u22124", "-4", {}, 1.0),
        ("2, 4", "4", {}, 1.0),
        ("0.3", "0.2", {"tolerance": 0.1}, 1.0),
        ("0.31", "0.2", {"tolerance": 0.1}, 0.0),
        ("104", "100", {"relative_tolerance": 0.05}, 1.0),
        ("106", "100", {"relative_tolerance": 0.05}, 0.0),
        ("none", "7", {}, 0.0),
        ("7", "none", {}, None),
    ],
)
def test_numbers_within_a_tolerance(
    text: str, reference: str, options: dict[str, float], expected: float | None
) -> None:
    assert score({"kind": "numeric", **options}, answered(text, reference)) == expected


def test_regex_is_found_anywhere() -> None:
    metric = {"kind": "regex", "pattern": r"(?i)thanks,\s+ada$"}
    assert score(metric, answered("It is done. Thanks,\nAda")) == 1.0
    assert score(metric, answered("Thanks, Ada, it is done.")) == 0.0


def test_rules_tell_their_share_all_of_them_and_each() -> None:
    metric = {
        "kind": "rules",
        "rules": [
            {"name": "opens", "pattern": "^(Hi|Hello)"},
            {"name": "no_sorry", "pattern": r"(?i)\bsorry\b", "must": "not_match"},
            {"name": "length", "min_words": 3, "max_words": 5},
        ],
    }
    assert scores(metric, answered("Hi, all is well.")) == {
        "": 1,
        "all": 1,
        "opens": 1,
        "no_sorry": 1,
        "length": 1,
    }
    assert scores(metric, answered("I am sorry for this, really.")) == {
        "": 0,
        "all": 0,
        "opens": 0,
        "no_sorry": 0,
        "length": 0,
    }
    two = scores(metric, answered("Hi there"))
    assert two is not None
    assert (two[""], two["all"], two["length"]) == (pytest.approx(2 / 3), 0, 0)


def test_a_rule_may_ask_for_easy_words() -> None:
    metric = {"kind": "rules", "rules": [{"name": "easy", "min_reading_ease": 65}]}
    assert score(metric, answered("You have a month to send it back.")) == 1.0
    assert score(metric, answered("Reimbursement necessitates immediate notification.")) == 0.0


FACTS = {"kind": "rules", "rules": [{"name": "true", "holds": "facts"}]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Within 30 Days, with the FORM.", 1.0),
        ("Within 30 days.", 0.0),
        ("Within 130 days, with the form.", 0.0),
        ("Within 30 days, with the information.", 0.0),
    ],
    ids=["all", "one is not there", "another number", "part of a word"],
)
def test_a_rule_may_ask_for_all_that_a_row_lists(text: str, expected: float) -> None:
    assert score(FACTS, answered(text, meta={"facts": ["30 days", "form"]})) == expected


@pytest.mark.parametrize("meta", [{}, {"facts": "30 days"}, {"facts": []}, {"facts": [""]}])
def test_a_row_that_lists_nothing_is_named(meta: dict[str, Any]) -> None:
    with pytest.raises(StageError, match=r"rule 'true' needs a list of texts in the rows' field 'facts'"):
        score(FACTS, answered("Within 30 days.", meta=meta))


@pytest.mark.parametrize(
    ("text", "valid", "matches"),
    [
        ('{"plan": "pro"}', 1.0, 1.0),
        ('{"plan": 3}', 1.0, 0.0),
        ("```json\n{}\n```", 0.0, 0.0),
        ("Sure! {}", 0.0, 0.0),
        ("[1, 2", 0.0, 0.0),
    ],
)
def test_json_is_valid_and_matches_a_schema(text: str, valid: float, matches: float) -> None:
    schema = {"type": "object", "properties": {"plan": {"type": "string"}}}
    assert score("json_valid", answered(text)) == valid
    assert score({"kind": "json_schema", "answer_schema": schema}, answered(text)) == matches


TICKET = (
    """{"type": "refund", "customer": {"name": "Ada Byron", "id": null}, "items": ["a", "b"], "amount": 10}"""
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '{"items": ["b", "A"], "type": " Refund", "customer": {"name": "ada  byron"}, "amount": 10.0}',
            {"": 1, "exact": 1, "precision": 1, "recall": 1},
        ),
        # Gives 4 facts, 3 of them right, of 5: F1 is 6/9.
        (
            '{"type": "refund", "items": ["a", "c"], "amount": 10, "customer": {"name": null}}',
            {
                "": 6 / 9,
                "exact": 0,
                "precision": 3 / 4,
                "recall": 3 / 5,
                "items.f1": 0.5,
                "customer.name.recall": 0,
            },
        ),
        # A null that should have been one, filled in, costs precision alone.
        (
            TICKET.replace("null", "7"),
            {"": 10 / 11, "exact": 0, "precision": 5 / 6, "recall": 1, "customer.id.precision": 0},
        ),
        ("no JSON", {"": 0, "exact": 0, "recall": 0, "items.recall": 0}),
        ("[1]", {"": 0, "exact": 0, "recall": 0}),
    ],
    ids=["the same", "some wrong", "made up", "no JSON", "no object"],
)
def test_fields_of_json_by_hand(text: str, expected: dict[str, float]) -> None:
    made = scores("json_fields", answered(text, TICKET))
    assert made is not None
    assert {part: made.get(part) for part in expected} == pytest.approx(expected)


def test_a_part_that_says_nothing_is_left_out() -> None:
    made = scores("json_fields", answered("{}", TICKET))
    assert made is not None
    assert "precision" not in made
    assert "customer.id.f1" not in made, "neither says anything of it"
    assert scores("json_fields", answered("{}", "{}")) == {"": 1.0, "exact": 1.0}
    assert scores("json_fields", answered("oops", "{}")) == {"": 0.0, "exact": 0.0}
    assert scores("json_fields", answered("{}", "no JSON")) is None


def test_only_listed_fields_count() -> None:
    metric = {"kind": "json_fields", "fields": ["customer", "type"]}
    made = scores(metric, answered('{"type": "refund", "customer": {"name": "Bob"}, "items": []}', TICKET))
    assert made is not None
    assert made[""] == 0.5
    assert {part for part in made if part.endswith(".f1")} == {"customer.f1", "type.f1"}


def test_true_is_not_1() -> None:
    assert score("json_fields", answered('{"urgent": 1}', '{"urgent": true}')) == 0.0


def test_clean_code_counts_only_as_the_function_that_was_asked_for() -> None:
    metric = {"kind": "code_ruff", "config": "", "defines": "signature"}
    for text, expected in (("def f(a): ...\n", 1.0), ("def g(a): ...\n", 0.0), ("def f(a): return b", 0.0)):
        assert score(metric, answered(text, meta={"signature": "f(a)"})) == expected
    assert score({"kind": "code_ruff", "config": ""}, answered("def g(a): ...\n")) == 1.0
    with pytest.raises(StageError, match="no text 'signature'"):
        score(metric, answered("def f(a): ...\n"))
