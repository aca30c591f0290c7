"""How well the letters of an abbreviation fit a meaning: what a reader without medical knowledge sees."""

from __future__ import annotations

import re
from functools import lru_cache

INNER_LETTER = 0.4
"""Worth of a letter found inside a word; the first letter of a word counts 1."""
SKIPPED_WORD = 0.3
"""Cost of a word whose first letter the abbreviation leaves out."""
_FILLERS = frozenset("a an and at by for from in of on or the to with".split())


def letter_score(abbreviation: str, meaning: str) -> float:
    """At most 1, which is an exact initialism ("AKI", "acute kidney injury"); below 0 for no likeness.

    The best in-order alignment of the abbreviation's letters with the meaning's words, per letter:
    Schwartz and Hearst (2003) align abbreviations in the same way. Filler words cost nothing to skip.
    """
    letters = "".join(re.findall(r"[a-z0-9]", abbreviation.lower()))
    words = tuple(re.findall(r"[a-z0-9]+", meaning.lower()))
    return _align(letters, words) / len(letters)


@lru_cache(maxsize=200_000)
def _align(letters: str, words: tuple[str, ...]) -> float:
    if not words:
        return 0.0
    word, rest = words[0], words[1:]
    options = [_align(letters, rest) - (0.0 if word in _FILLERS else SKIPPED_WORD)]
    for taken in range(1, len(letters) + 1):
        value = _in_word(letters[:taken], word)
        if value is None:
            break
        options.append(value + _align(letters[taken:], rest))
    if letters:
        # A letter that fits nowhere is worth nothing and the others may still fit.
        options.append(_align(letters[1:], words))
    return max(options)


@lru_cache(maxsize=200_000)
def _in_word(letters: str, word: str) -> float | None:
    """Worth of these letters, all taken from one word in order; None if they are not in it."""
    starts = letters[0] == word[0]
    position, value = (1, 1.0) if starts else (0, -SKIPPED_WORD)
    for letter in letters[1:] if starts else letters:
        position = word.find(letter, position) + 1
        if position == 0:
            return None
        value += INNER_LETTER
    return value
