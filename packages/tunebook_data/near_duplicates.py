"""Rows that nearly repeat one another.

Candidates come from `minhash`. Each is then verified by the exact Jaccard similarity of its shingles: nothing
is dropped on an estimate.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from tunebook_data.minhash import SHINGLE_WORDS, band_keys, buckets, meet_before, shingle_sets, similarity
from tunebook_data.prompts import words
from tunebook_data.rows import Row
from tunebook_data.split import DisjointSets
from tunebook_model.conversation import Message, text_of

_CACHED_SHINGLES = 4096
"""Rows whose shingles are kept at hand; candidates are few, so all others are made again when needed."""

Shingles = frozenset[str]


def shingles(texts: Iterable[str]) -> Shingles:
    """Every run of three words within one text; a shorter text is one run. No words, no shingles."""
    made: set[str] = set()
    for text in texts:
        made.update(ngrams(words(text), SHINGLE_WORDS) or [" ".join(words(text))])
    return frozenset(made - {""})


def ngrams(tokens: Sequence[str], n: int) -> list[str]:
    """Runs of n words, in order; none if there are fewer."""
    return [*map(" ".join, zip(*(tokens[i:] for i in range(n)), strict=False))]


def said(messages: Iterable[Message]) -> list[str]:
    """What a conversation says: the system message, which many rows share, is no part of it."""
    return [text_of(each) for each in messages if each["role"] != "system"]


def jaccard(a: Shingles, b: Shingles) -> float:
    """Shared of all; 0 where either has none, since that tells of no likeness."""
    return len(a & b) / len(a | b) if a and b else 0.0


def near_duplicates(rows: Sequence[Row], near: float) -> dict[int, tuple[int, float]]:
    """Index of each row that repeats an earlier one of its task -> that row's index, and their similarity.

    Two rows whose Jaccard similarity is at least `near` are in one cluster (union-find), for which its first
    row stands. A chain of likenesses can join rows whose similarity to that first row is below `near`; the
    number returned is always that to the first row.
    """
    keys, filled = band_keys(said(row.messages) for row in rows)
    found = [*buckets(keys, filled)]
    numbers = sorted({i for _, bucket in found for i in bucket})
    sets = dict(zip(numbers, shingle_sets(said(rows[i].messages) for i in numbers), strict=True))
    known: dict[tuple[int, int], float] = {}

    def alike(i: int, j: int) -> bool:
        likeness = similarity(sets[i], sets[j]) if rows[i].task == rows[j].task else 0.0
        if likeness >= near:
            known[max(i, j), min(i, j)] = likeness
        return likeness >= near

    clusters = DisjointSets()
    for band, bucket in found:
        # Its members by cluster: a row need not be compared with its own.
        met: list[list[int]] = []
        for i in bucket:
            apart = []
            mine = [i]
            for members in met:
                if clusters.find(members[0]) == clusters.find(i):
                    mine = members + mine
                elif any(not meet_before(keys, band, i, j) and alike(i, j) for j in members):
                    first, second = sorted((_root(clusters, i), _root(clusters, members[0])))
                    clusters.join(second, first)
                    mine = members + mine
                else:
                    apart.append(members)
            met = [*apart, mine]
    roots = ((i, _root(clusters, i)) for i in range(len(rows)))
    return {
        i: (root, known.get((i, root)) or similarity(sets[i], sets[root])) for i, root in roots if root != i
    }


def near_copies(
    rows: Sequence[Row], parents: Mapping[int, int | None], near: float
) -> dict[int, tuple[int, float]]:
    """Index of each generated row that repeats an earlier row of any task -> that row's index, and how much.

    Args:
        rows: those that stay in any case, then the generated ones; of these, one that is a copy is none that
            later ones are compared with.
        parents: index of each generated row -> that of the row it was made from, if that is among them. A row
            is compared with its parent and its siblings in any case, and with what the hashing finds.
        near: Jaccard similarity from which a row is a copy.
    """

    @lru_cache(_CACHED_SHINGLES)
    def of(i: int) -> Shingles:
        return shingles(said(rows[i].messages))

    likely: dict[int, set[int]] = {i: set() for i in parents}
    for _, bucket in buckets(*band_keys(said(row.messages) for row in rows)):
        for at, i in enumerate(bucket):
            if i in parents:
                likely[i].update(bucket[:at])
    found: dict[int, tuple[int, float]] = {}
    kin: dict[int, list[int]] = defaultdict(list)
    for i in sorted(parents):
        alike = likely[i] - found.keys()
        if (parent := parents[i]) is not None:
            alike |= {parent, *kin[parent]}
        similarity, original = max(((jaccard(of(i), of(j)), -j) for j in alike), default=(0.0, 0))
        if similarity >= near:
            found[i] = -original, similarity
        elif parent is not None:
            kin[parent].append(i)
    return found


def _root(clusters: DisjointSets, i: int) -> int:
    root = clusters.find(i)
    assert isinstance(root, int)
    return root
