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

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, groupby
from operator import itemgetter
from typing import Literal, overload

import numpy as np
import numpy.typing as npt

from tunebook_data.minhash import Array64, candidates
from tunebook_data.near_duplicates import jaccard, said, shingles
from tunebook_data.ngrams import Filter, Grams, grams_of
from tunebook_data.prompts import answered_numbers, asked, key_number, prompt_key
from tunebook_data.rows import Row
from tunebook_data.split import group_number
from tunebook_data.workers import HERE, Workers, batched
from tunebook_model.conversation import Message
from tunebook_spec.data import Decontaminate

BOILERPLATE_GROUPS = 10
"""An n-gram that more training groups than this hold is boilerplate."""
_ROWS_A_CHUNK = 256

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


@dataclass(frozen=True, eq=False)
class HeldOutItems(Sequence[HeldOut]):
    """Everything that something is measured on; what is a row is made when it is asked for."""

    rows: tuple[tuple[str, Sequence[Row]], ...]
    """By side."""
    texts: tuple[HeldOut, ...]

    def __len__(self) -> int:
        return sum(len(rows) for _, rows in self.rows) + len(self.texts)

    @overload
    def __getitem__(self, index: int) -> HeldOut: ...
    @overload
    def __getitem__(self, index: slice) -> list[HeldOut]: ...
    def __getitem__(self, index: int | slice) -> HeldOut | list[HeldOut]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        for side, rows in self.rows:
            if index < len(rows):
                return HeldOut.of_row(side, rows[index])
            index -= len(rows)
        return self.texts[index]

    def __iter__(self) -> Iterator[HeldOut]:
        for side, rows in self.rows:
            yield from (HeldOut.of_row(side, row) for row in rows)
        yield from self.texts


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
    for i, match in chain(
        _exact(rows, items), _ngram(rows, items, rules), _near(rows, items, rules.near, workers)
    ):
        found.setdefault(i, match)
    return dict(sorted(found.items()))


Found = Iterator[tuple[int, Match]]


def _exact(rows: Sequence[Row], items: Sequence[HeldOut]) -> Found:
    known = np.fromiter((key_number(prompt_key(item.prompt)) for item in items), np.uint64, len(items))
    # The sort is stable: of equal prompts the first is met.
    order = np.argsort(known, kind="stable")
    ordered = known[order]
    # What it answers on the way counts too: a row that asks just this would teach a part of the test.
    earlier: dict[int, int] = {}
    for index, item in enumerate(items):
        for number in answered_numbers(item.prompt):
            earlier.setdefault(number, index)
    for start, batch in zip(count(0, _ROWS_A_CHUNK), batched(rows, _ROWS_A_CHUNK), strict=False):
        of_batch = [_asked_anywhere(row) for row in batch]
        numbers = np.array([*chain.from_iterable(of_batch)], np.uint64)
        is_known = _are_in(ordered, numbers)
        of_row = np.repeat(np.arange(start, start + len(batch)), [*map(len, of_batch)])
        met: dict[int, int] = {}
        for at in np.flatnonzero(is_known).tolist():
            met.setdefault(int(of_row[at]), int(order[np.searchsorted(ordered, numbers[at])]))
        for i, row in enumerate(batch, start) if earlier else ():
            if (number := key_number(asked(row.messages))) in earlier:
                met.setdefault(i, earlier[number])
        yield from ((i, Match(items[item], "exact", 1.0)) for i, item in met.items())


def _asked_anywhere(row: Row) -> list[int]:
    """The prompts of all answers of a row, then each of its questions alone."""
    alone = (key_number(prompt_key([each])) for each in row.messages if each["role"] == "user")
    return [*answered_numbers(row.messages), *alone]


def _ngram(rows: Sequence[Row], items: Sequence[HeldOut], rules: Decontaminate) -> Found:
    n = rules.ngram_words
    num_words = np.concatenate([np.empty(0, np.int32), *(words for _, words in grams_of(_texts(items), n))])
    held = Filter(int(num_words.sum()))
    for grams, _ in grams_of(_texts(items), n):
        held.add(grams.hashes_G)
    groups = array("Q")
    said_by_rows = (_noted(row, groups) for row in rows)
    likely = (grams.take(held.finds(grams.hashes_G)) for grams, _ in grams_of(said_by_rows, n))
    hits = _without_boilerplate(Grams.joined(map(_once_a_document, likely)), np.array(groups, np.uint64))
    wanted = np.unique(hits.hashes_G)
    among = (grams.take(_are_in(wanted, grams.hashes_G)) for grams, _ in grams_of(_texts(items), n))
    places = Grams.joined(among)
    places = places.take(np.argsort(places.hashes_G, kind="stable"))
    hits = hits.take(_are_in(places.hashes_G, hits.hashes_G))
    left = np.searchsorted(places.hashes_G, hits.hashes_G, "left")
    right = np.searchsorted(places.hashes_G, hits.hashes_G, "right")
    found = zip(hits.documents_G.tolist(), left.tolist(), right.tolist(), strict=True)
    for i, of_row in groupby(found, key=itemgetter(0)):
        covered: dict[int, set[int]] = defaultdict(set)
        for at in chain.from_iterable(range(first, end) for _, first, end in of_row):
            start = int(places.starts_G[at])
            covered[int(places.documents_G[at])].update(range(start, start + n))
        share, item = max((len(at) / int(num_words[item]), -item) for item, at in covered.items())
        if share >= rules.ngram_overlap:
            yield i, Match(items[-item], "ngram", share)


def _texts(items: Iterable[HeldOut]) -> Iterator[list[str]]:
    return (said((*item.prompt, *item.answer)) for item in items)


def _noted(row: Row, groups: array[int]) -> list[str]:
    """What a row says; its group is put down."""
    groups.append(group_number(row))
    return said(row.all_messages)


def _once_a_document(grams: Grams) -> Grams:
    order = np.lexsort((grams.hashes_G, grams.documents_G))
    hashes, documents = grams.hashes_G[order], grams.documents_G[order]
    is_new = np.ones(len(order), np.bool_)
    is_new[1:] = (hashes[1:] != hashes[:-1]) | (documents[1:] != documents[:-1])
    return grams.take(order[is_new])


def _without_boilerplate(grams: Grams, groups: Array64) -> Grams:
    """Those that few enough groups of the documents hold."""
    of_gram = groups[grams.documents_G]
    order = np.lexsort((of_gram, grams.hashes_G))
    hashes, of_gram = grams.hashes_G[order], of_gram[order]
    is_new = np.ones(len(order), np.bool_)
    is_new[1:] = (hashes[1:] != hashes[:-1]) | (of_gram[1:] != of_gram[:-1])
    distinct, num_groups = np.unique(hashes[is_new], return_counts=True)
    return grams.take(_are_in(distinct[num_groups <= BOILERPLATE_GROUPS], grams.hashes_G))


def _are_in(ordered: Array64, hashes: Array64) -> npt.NDArray[np.bool_]:
    if not len(ordered):
        return np.zeros(len(hashes), np.bool_)
    found: npt.NDArray[np.bool_] = ordered.take(np.searchsorted(ordered, hashes), mode="clip") == hashes
    return found


def _near(rows: Sequence[Row], items: Sequence[HeldOut], near: float, workers: Workers) -> Found:
    """Both a row and an item are two documents: its prompt, and all of it."""
    of = (texts for row in rows for texts in (said(row.messages[:-1]), said(row.messages)))
    among = (texts for item in items for texts in (said(item.prompt), said((*item.prompt, *item.answer))))
    best: dict[int, Match] = {}
    for number, likely in candidates(of, among, workers):
        row = rows[number // 2]
        made = shingles(said(row.messages if number % 2 else row.messages[:-1]))
        for each in likely:
            item = items[each // 2]
            texts = said((*item.prompt, *item.answer) if each % 2 else item.prompt)
            similarity = jaccard(made, shingles(texts))
            found = best.get(number // 2)
            if similarity >= near and (found is None or similarity > found.overlap):
                best[number // 2] = Match(item, "near", similarity)
    yield from best.items()
