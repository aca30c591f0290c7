from __future__ import annotations

import math

import pytest

from tunebook_eval.similarity import TfIdf


def test_weights_and_cosines_are_those_of_the_definition() -> None:
    index = TfIdf.of(["red red blue", "blue", "green sea"])
    rare, common = math.log(4 / 2) + 1, math.log(4 / 3) + 1
    assert index.weights.toarray()[0].tolist() == pytest.approx([2 * rare, common, 0, 0])
    assert index.nearest("Blue!", 3) == [1, 0, 2]
    assert index.nearest("red, blue", 2) == [0, 1]


def test_a_rare_word_tells_more_than_two_common_ones() -> None:
    texts = ["what is the word", "what is the tide", "what is the sea", "tell of lemurs"]
    assert TfIdf.of(texts).nearest("what is lemurs", 1) == [3]


def test_a_long_text_is_not_liked_for_its_length() -> None:
    assert TfIdf.of(["tide " + "and more of that " * 9, "tide"]).nearest("tide", 1) == [1]


@pytest.mark.parametrize("text", ["", "?!", "zebra"], ids=["empty", "no words", "unknown word"])
def test_where_nothing_is_shared_the_first_come_first(text: str) -> None:
    assert TfIdf.of(["", "red", "..."]).nearest(text, 2) == [0, 1]
    assert TfIdf.of(["", "..."]).nearest(text, 2) == [0, 1]
