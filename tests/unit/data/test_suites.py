import re
from collections import Counter
from collections.abc import Callable

import pytest

from tunebook_data.suites import contains, load_replay_prompts, load_suite, load_texts
from tunebook_spec.errors import DataError


@pytest.mark.parametrize(
    ("answer", "expected", "holds"),
    [
        ("2+2=4.", "4", True),
        ("The answer is 4", "4", True),
        ("2, 4, 6", "4", True),
        ("2,4,6", "4", True),
        ("It is 14.", "4", False),
        ("It is 4.5.", "4", False),
        ("It is 0.4", "4", False),
        ("It is -4.", "4", False),
        ("It is 4,000.", "4", False),
        ("It is 1,500.", "500", False),
        ("10-3-4", "4", True),
        ("PARIS, France", "Paris", True),
        ("concatenate", "cat", False),
        ("cats", "cat", False),
        ("print('Hello')", "print", True),
        ("a hot  \n dog", "hot dog", True),
        ("def f():", "def ", True),
        ("x[::-1]", "[::-1]", True),
        ("", "4", False),
    ],
)
def test_contains_looks_for_words_and_whole_numbers(answer: str, expected: str, holds: bool) -> None:
    assert contains(answer, (expected,)) is holds


def test_any_of_several_is_enough() -> None:
    assert contains("a sofa", ("couch", "sofa"))
    assert not contains("a chair", ("couch", "sofa"))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _four_grams(text: str) -> set[tuple[str, ...]]:
    words = _words(text)
    return {tuple(words[start : start + 4]) for start in range(len(words) - 3)}


def _jaccard(first: set[str], second: set[str]) -> float:
    return len(first & second) / len(first | second)


def test_the_general_suite_is_broad_and_without_repeats() -> None:
    items = load_suite("general")
    assert len(items) >= 300
    assert len({item.id for item in items}) == len({item.q.casefold() for item in items}) == len(items)
    groups = Counter(item.group for item in items)
    assert len(groups) >= 15
    assert max(groups.values()) <= len(items) / 10
    assert all(item.expected_contains and all(item.expected_contains) for item in items)


def test_an_expected_answer_passes_its_own_item_and_an_expansion_of_abbreviations_does_not() -> None:
    narrow = "AKI: acute kidney injury\nPFT: pulmonary function test\nAVR: aortic valve replacement"
    for item in load_suite("general"):
        assert all(
            contains(f"It is {expected}.", item.expected_contains) for expected in item.expected_contains
        )
        assert not contains(narrow, item.expected_contains), item.q


def test_few_items_are_passed_by_repeating_the_question() -> None:
    """Only such as ask for a text about a thing, which has to name it."""
    echoed = [item for item in load_suite("general") if contains(item.q, item.expected_contains)]
    assert len(echoed) <= 25
    assert not {item.group for item in echoed} & {
        "capitals",
        "opposites",
        "arithmetic",
        "people",
        "definitions",
    }


def test_fixed_texts_are_short_and_distinct() -> None:
    texts = load_texts("fixed_texts")
    assert len(texts) == len(set(texts)) == 60
    assert all(8 <= len(text.split()) <= 60 for text in texts)


def test_replay_prompts_are_no_items_of_the_suite_nor_near_to_one() -> None:
    prompts, items = load_replay_prompts(), load_suite("general")
    assert len(prompts) >= 150
    assert len({prompt.casefold() for prompt in prompts}) == len(prompts)
    asked = [(item.q, set(_words(item.q)), _four_grams(item.q)) for item in items]
    for prompt in prompts:
        words, grams = set(_words(prompt)), _four_grams(prompt)
        near = [q for q, theirs, four in asked if grams & four or _jaccard(words, theirs) >= 0.6]
        assert not near, (prompt, near)


@pytest.mark.parametrize("load", [load_suite, load_texts])
def test_an_unknown_name_is_refused(load: Callable[[str], object]) -> None:
    with pytest.raises(DataError, match="'other'"):
        load("other")
