"""Multiple choice over abbreviations, with wrong options that letters alone do not rule out."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from itertools import chain
from pathlib import Path
from typing import Literal

from tunebook_data.datasets import medical_source as source
from tunebook_data.letters import letter_score
from tunebook_data.rows import Row, content_id
from tunebook_model.conversation import Message

NUM_OPTIONS = 4
NEAR_MEANING = 0.75
"""Two meanings with this share of their words in common (Jaccard) are one: neither is a wrong option for
the other, and a split does not part them."""
_MIN_MEANING_CHARS = 10
_SHORTLIST = 20

Stratum = Literal["letters", "blind"]


def choice_rows(assets_dir: Path, seed: int) -> list[Row]:
    """One row a term, shuffled; the right answer stands at each position equally often.

    Wrong options are the three meanings that fit the abbreviation's letters best. `stratum` is "letters" if
    the right meaning still fits strictly better than all three, "blind" if letters mislead or do not tell.
    """
    meanings, groups = choice_terms(assets_dir)
    rng = random.Random(f"medical_glossary/choice/{seed}")
    order = sorted(meanings)
    rng.shuffle(order)
    nearest = _Nearest(meanings, groups)
    positions: list[int] = []
    made = []
    for line, term in enumerate(order, start=1):
        if not positions:
            positions = rng.sample(range(NUM_OPTIONS), NUM_OPTIONS)
        wrong = nearest.to(term)
        rng.shuffle(wrong)
        made.append(_row(term, groups[term], meanings[term], wrong, positions.pop(), line))
    return made


def choice_terms(assets_dir: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Term -> meaning, and term -> name of its group; nothing that is in the glossary or near to it."""
    known = source.single_meanings(assets_dir)
    groups = meaning_groups(known)
    taken = {groups[term] for term in source.glossary_terms()}
    meanings = {
        term: meaning
        for term, meaning in known.items()
        if groups[term] not in taken and len(meaning) >= _MIN_MEANING_CHARS
    }
    return meanings, {term: groups[term] for term in meanings}


def meaning_groups(meanings: dict[str, str]) -> dict[str, str]:
    """Term -> first term of its group: terms that are one in spelling but for case, or near in meaning."""
    words = {term: stems(meaning) for term, meaning in meanings.items()}
    parent = {term: term for term in sorted(meanings)}

    def root(term: str) -> str:
        while parent[term] != term:
            term = parent[term]
        return term

    by_word: dict[str, list[str]] = defaultdict(list)
    by_spelling: dict[str, str] = {}
    for term in parent:
        shared = Counter(other for word in words[term] for other in by_word[word])
        near = [
            other
            for other, count in shared.items()
            if count / (len(words[term]) + len(words[other]) - count) >= NEAR_MEANING
        ]
        for other in [*near, by_spelling.setdefault(term.lower(), term)]:
            first, second = sorted((root(term), root(other)))
            parent[second] = first
        for word in words[term]:
            by_word[word].append(term)
    return {term: root(term) for term in parent}


class _Nearest:
    """Finds the wrong meanings that fit an abbreviation's letters best."""

    def __init__(self, meanings: dict[str, str], groups: dict[str, str]) -> None:
        self._meanings = meanings
        self._groups = groups
        self._by_letter: dict[str, list[tuple[str, frozenset[str]]]] = defaultdict(list)
        for term, meaning in meanings.items():
            initials = frozenset(re.findall(r"\b[a-z0-9]", meaning))
            self._by_letter[meaning[0]].append((term, initials))

    def to(self, term: str) -> list[str]:
        """Three meanings of three groups, best first; none near in meaning to the right one."""
        ranked = sorted(
            self._shortlist(term), key=lambda other: (-letter_score(term, self._meanings[other]), other)
        )
        chosen: dict[str, str] = {}
        for other in ranked:
            chosen.setdefault(self._groups[other], self._meanings[other])
        return list(chosen.values())[: NUM_OPTIONS - 1]

    def _shortlist(self, term: str) -> list[str]:
        """The full score is slow, so it sees only meanings that share many of the initials.

        The first letter is shared by all of them, unless it is a rare one.
        """
        letters = frozenset(term.lower())
        alike = self._by_letter[term[0].lower()]
        pool = alike if len(alike) >= _SHORTLIST else list(chain.from_iterable(self._by_letter.values()))
        rivals = [
            (-len(letters & initials), other)
            for other, initials in pool
            if self._groups[other] != self._groups[term]
        ]
        return [other for _, other in sorted(rivals)[:_SHORTLIST]]


def _row(term: str, group: str, right: str, wrong: list[str], position: int, line: int) -> Row:
    choices = [*wrong[:position], right, *wrong[position:]]
    messages: tuple[Message, ...] = (
        {"role": "user", "content": "\n".join([f"What does {term} stand for?", *choices])},
        {"role": "assistant", "content": right},
    )
    meta = {
        "term": group,
        "abbreviation": term,
        "choices": choices,
        "answer": position,
        "stratum": _stratum(term, right, wrong),
    }
    return Row(
        content_id("choice", messages), messages, "choice", f"term={group}", "medical_glossary", line, meta
    )


def _stratum(term: str, right: str, wrong: list[str]) -> Stratum:
    best_wrong = max(letter_score(term, meaning) for meaning in wrong)
    return "letters" if letter_score(term, right) > best_wrong else "blind"


def stems(text: str) -> frozenset[str]:
    """The words of lower-case text, without the s of a plural."""
    return frozenset(_stem(word) for word in re.findall(r"[a-z0-9]+", text))


def _stem(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") else word
