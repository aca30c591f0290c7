"""Rows that nearly repeat one another, found by MinHash without comparing every pair.

Candidates come from locality-sensitive hashing (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of
Massive Datasets, sec. 3.4): 14 bands of 8 rows, the layout of datatrove, find a pair of Jaccard similarity s
with probability 1 - (1 - s^8)^14, which is 0.77 at 0.75, 0.92 at 0.8 and 0.9996 at 0.9. Each candidate is
then verified by the exact Jaccard similarity of its shingles: nothing is dropped on an estimate.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from rensa import RMinHash, RMinHashLSH

from tunebook_data.prompts import words
from tunebook_data.rows import Row
from tunebook_data.split import DisjointSets
from tunebook_model.conversation import Message, text_of

BANDS, ROWS_PER_BAND = 14, 8
SHINGLE_WORDS = 3
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
    return [" ".join(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def said(messages: Iterable[Message]) -> list[str]:
    """What a conversation says: the system message, which many rows share, is no part of it."""
    return [text_of(each) for each in messages if each["role"] != "system"]


def jaccard(a: Shingles, b: Shingles) -> float:
    """Shared of all; 0 where either has none, since that tells of no likeness."""
    return len(a & b) / len(a | b) if a and b else 0.0


class LshIndex:
    """Sets of shingles by number, and which of them a set may resemble."""

    def __init__(self) -> None:
        # The threshold is read by methods of rensa that we do not call: `query` returns all of the bands.
        self._lsh = RMinHashLSH(threshold=0.5, num_perm=BANDS * ROWS_PER_BAND, num_bands=BANDS)

    def add(self, number: int, sketch: RMinHash) -> None:
        self._lsh.insert(number, sketch)

    def candidates(self, sketch: RMinHash) -> list[int]:
        """Numbers in ascending order, each once."""
        return sorted(set(self._lsh.query(sketch)))


def sketches(sets: Iterable[Shingles]) -> Iterator[RMinHash | None]:
    """The MinHash of each set, the same on every machine; none for an empty one, which resembles nothing."""
    for each in sets:
        yield RMinHash.from_token_sets([list(each)], BANDS * ROWS_PER_BAND, 0)[0] if each else None


def near_duplicates(rows: Sequence[Row], near: float) -> dict[int, tuple[int, float]]:
    """Index of each row that repeats an earlier one of its task -> that row's index, and their similarity.

    Two rows whose Jaccard similarity is at least `near` are in one cluster (union-find), for which its first
    row stands. A chain of likenesses can join rows whose similarity to that first row is below `near`; the
    number returned is always that to the first row.
    """

    @lru_cache(_CACHED_SHINGLES)
    def of(i: int) -> Shingles:
        return shingles(said(rows[i].messages))

    clusters, index = DisjointSets(), LshIndex()
    for i, sketch in enumerate(sketches(map(of, range(len(rows))))):
        if sketch is None:
            continue
        for j in index.candidates(sketch):
            first, second = sorted((_root(clusters, i), _root(clusters, j)))
            if first != second and rows[i].task == rows[j].task and jaccard(of(i), of(j)) >= near:
                clusters.join(second, first)
        index.add(i, sketch)
    roots = ((i, _root(clusters, i)) for i in range(len(rows)))
    return {i: (root, jaccard(of(i), of(root))) for i, root in roots if root != i}


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

    index, found = LshIndex(), dict[int, tuple[int, float]]()
    kin: dict[int, list[int]] = defaultdict(list)
    for i, sketch in enumerate(sketches(map(of, range(len(rows))))):
        if i in parents:
            alike = set(index.candidates(sketch)) if sketch is not None else set()
            if (parent := parents[i]) is not None:
                alike |= {parent, *kin[parent]}
            similarity, original = max(((jaccard(of(i), of(j)), -j) for j in alike), default=(0.0, 0))
            if similarity >= near:
                found[i] = -original, similarity
                continue
            if parent is not None:
                kin[parent].append(i)
        if sketch is not None:
            index.add(i, sketch)
    return found


def _root(clusters: DisjointSets, i: int) -> int:
    root = clusters.find(i)
    assert isinstance(root, int)
    return root
