"""How easily English text is read, by the lengths of its sentences and words."""

from __future__ import annotations

import re

_SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)|\n")
_WORD = re.compile(r"[^\W_]+(?:['\u2019.,:-][^\W_]+)*")
_VOWELS = re.compile(r"[aeiouy]+|(?<=[sd])nt$")
_SILENT = re.compile(
    r"(?<=[^aeiouyl])e$|(?<=[aeiouy]l)e$"
    r"|(?<=[^aeioudtyl])ed$|(?<=[aeiouyl]l)ed$"
    r"|(?<=[^aeiouycghlsxz])es$|(?<=[aeiouy]l)es$"
)
"""`note`, `rule`, but `table`; `called`, but `settled`, `wanted`; `times`, `rules`, but `tables`, `boxes`."""


def reading_ease(text: str) -> float:
    """Flesch's reading ease (1948): about 100 is very easy, 65 plain English, 30 hard; without words 0.

    A line's end ends a sentence. A number is a word of one syllable, however it is read.
    """
    words = _WORD.findall(text)
    if not words:
        return 0.0
    num_sentences = sum(bool(_WORD.search(part)) for part in _SENTENCE_END.split(text))
    return 206.835 - 1.015 * len(words) / num_sentences - 84.6 * sum(map(syllables, words)) / len(words)


def syllables(word: str) -> int:
    """Groups of vowels, without endings that are not spoken; at least 1."""
    letters = re.sub(r"[^a-z]", "", word.casefold())
    return max(1, len(_VOWELS.findall(_SILENT.sub("", letters))))
