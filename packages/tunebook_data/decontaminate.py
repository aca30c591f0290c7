"""Training rows that know what will be asked: told by which item, by which rule, and by how much.

Three rules, the first that applies is the one told:

`exact`: a row answers a held-out prompt, or one of its user messages alone is one; case, white space and
Unicode form aside.

`ngram`: of a held-out item's words, at least half lie in 8-grams that the row has too. This is the rule of
Tulu 3 (Lambert et al. 2024, arXiv 2411.15124, sec. 3.2: 8-grams, half of the test tokens, one training
instance), read over prompts and answers alike, since a held-out row's answer tells as much as its prompt.
An n-gram that more than ten training groups hold is boilerplate and shows nothing, lest data made from
templates be gutted: GPT-3 (Brown et al. 2020, arXiv 2005.14165, appendix C) ignores those of more than ten
training documents; rows of one group are kin and count once here. An item whose messages are shorter than
an n-gram is left to the other rules: GPT-3 found matches below eight words to be chance.

`near`: of two whole conversations, or of two prompts, the Jaccard similarity of their word 3-shingles.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Literal

from tunebook_data.minhash import candidates
from tunebook_data.near_duplicates import jaccard, ngrams, said, shingles
from tunebook_data.prompts import answered, prompt_key, words
from tunebook_data.rows import Row
from tunebook_data.workers import HERE, Workers, batched
from tunebook_model.conversation import Message
from tunebook_spec.models import Decontaminate

BOILERPLATE_GROUPS = 10
"""An n-gram that more training groups than this hold is boilerplate."""
_ROWS_A_CHUNK = 256
_POOL_CHUNKS = 256
"""Fewer are done before a second process would have begun."""

Rule = Literal["exact", "ngram", "near"]


@dataclass(frozen=True)
class HeldOut:
    """Something that evaluation or the validation loss asks."""

    name: str
    """What a listing calls it."""
    prompt: tuple[Message, ...]
    answer: tuple[Message, ...]
    """Empty for a question or text alone."""

    @classmethod
    def of_row(cls, side: str, row: Row) -> HeldOut:
        return cls(f"{side} {row.source}:{row.line}", row.messages[:-1], row.messages[-1:])

    @classmethod
    def of_text(cls, name: str, text: str) -> HeldOut:
        return cls(name, ({"role": "user", "content": text},), ())


@dataclass(frozen=True)
class Match:
    """Why a training row is contaminated."""

    item: HeldOut
    rule: Rule
    overlap: float
    """1 for `exact`, the share of the item's words for `ngram`, the Jaccard similarity for `near`."""


def find_leaks(
    rows: Sequence[Row], items: Sequence[HeldOut], rules: Decontaminate, workers: Workers = HERE
) -> dict[int, Match]:
    """Index of each contaminated row -> what it knows."""
    found: dict[int, Match] = {}
    matches = [
        *_exact(rows, items),
        *_ngram(rows, items, rules, workers),
        *_near(rows, items, rules.near, workers),
    ]
    for i, match in matches:
        found.setdefault(i, match)
    return dict(sorted(found.items()))


Found = Iterator[tuple[int, Match]]


def _exact(rows: Sequence[Row], items: Sequence[HeldOut]) -> Found:
    known = {prompt_key(item.prompt): item for item in reversed(items)}
    for i, row in enumerate(rows):
        questions = (prompt_key([each]) for each in row.messages if each["role"] == "user")
        item = next((known[key] for key in (*answered(row.messages), *questions) if key in known), None)
        if item is not None:
            yield i, Match(item, "exact", 1.0)


def _ngram(rows: Sequence[Row], items: Sequence[HeldOut], rules: Decontaminate, workers: Workers) -> Found:
    n = rules.ngram_words
    places, num_words = _places(items, n)
    chunks = batched((said(row.messages) for row in rows), _ROWS_A_CHUNK)
    known = partial(_known_ngrams, n, frozenset(places))
    hits = [*chain.from_iterable(workers.map(known, chunks, pool_from=_POOL_CHUNKS))]
    groups: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for row, grams in zip(rows, hits, strict=True):
        for gram in grams:
            groups[gram].add((row.task, row.group))
    for i, grams in enumerate(hits):
        covered: dict[int, set[int]] = defaultdict(set)
        for gram in grams:
            if len(groups[gram]) <= BOILERPLATE_GROUPS:
                for item, start in places[gram]:
                    covered[item].update(range(start, start + n))
        shares = [(len(at) / num_words[item], -item) for item, at in covered.items()]
        share, item = max(shares, default=(0.0, 0))
        if shares and share >= rules.ngram_overlap:
            yield i, Match(items[-item], "ngram", share)


def _known_ngrams(n: int, known: frozenset[str], rows: Sequence[Sequence[str]]) -> list[set[str]]:
    """The n-grams of each row's texts that are known."""
    return [{gram for text in texts for gram in ngrams(words(text), n) if gram in known} for texts in rows]


def _places(items: Sequence[HeldOut], n: int) -> tuple[dict[str, list[tuple[int, int]]], list[int]]:
    """Where each n-gram of the items stands, as item and first word; and the number of words of each item."""
    places: dict[str, list[tuple[int, int]]] = defaultdict(list)
    num_words = []
    for number, item in enumerate(items):
        start = 0
        for text in said((*item.prompt, *item.answer)):
            tokens = words(text)
            for offset, gram in enumerate(ngrams(tokens, n)):
                places[gram].append((number, start + offset))
            start += len(tokens)
        num_words.append(start)
    return places, num_words


def _near(rows: Sequence[Row], items: Sequence[HeldOut], near: float, workers: Workers) -> Found:
    known = [
        (item, texts) for item in items for texts in (said(item.prompt), said((*item.prompt, *item.answer)))
    ]
    asked_and_said = [texts for row in rows for texts in (said(row.messages[:-1]), said(row.messages))]
    best: dict[int, Match] = {}
    for number, likely in candidates(asked_and_said, [texts for _, texts in known], workers).items():
        made = shingles(asked_and_said[number])
        for item, texts in (known[each] for each in likely):
            similarity = jaccard(made, shingles(texts))
            found = best.get(number // 2)
            if similarity >= near and (found is None or similarity > found.overlap):
                best[number // 2] = Match(item, "near", similarity)
    yield from best.items()
