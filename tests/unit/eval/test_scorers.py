from __future__ import annotations

from typing import Any

import pytest

from tunebook_eval.answers import Answer
from tunebook_eval.scorers import score
from tunebook_spec.models import Metric


def answered(text: str, reference: str | None = None, **more: Any) -> Answer:
    facts = {"set": "s", "item": "1", "question": "q", "group": "g", "finish_reason": "stop"}
    return Answer(**{**facts, **more, "text": text, "reference": reference})


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


@pytest.mark.parametrize("metric", ["line_match", "exact_match", "contains"])
def test_a_failed_row_is_unscored_not_wrong(metric: Metric) -> None:
    failed = answered("", "x", finish_reason="error", error="the prompt is too long")
    assert score(metric, failed) is None
