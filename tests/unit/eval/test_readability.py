from __future__ import annotations

import pytest

from tunebook_eval.readability import reading_ease, syllables

SPOKEN = {
    1: "the note rule rules times called washed used played piece you've 12.5",
    2: "table tables wanted settled boxes wishes pieces isn't parcel",
    4: "reimbursement available",
}


@pytest.mark.parametrize(
    ("word", "expected"), [(word, count) for count, words in SPOKEN.items() for word in words.split()]
)
def test_endings_that_are_not_spoken_are_no_syllables(word: str, expected: int) -> None:
    assert syllables(word) == expected


def test_reading_ease_is_flesch() -> None:
    assert reading_ease("The cat sat on the mat.") == pytest.approx(206.835 - 1.015 * 6 - 84.6)
    assert reading_ease("Wait 3.5 days") == pytest.approx(206.835 - 1.015 * 3 - 84.6), "a figure ends nothing"


def test_a_line_is_a_sentence() -> None:
    assert reading_ease("Hi there\nYour team") == reading_ease("Hi there. Your team.")


def test_text_without_words_is_not_easy() -> None:
    assert reading_ease("...\n!") == 0.0
