"""Rows that nearly repeat one another.

Candidates come from `minhash`. Each is then verified by the exact Jaccard similarity of its shingles: nothing
is dropped on an estimate.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import chain, groupby, islice
from operator import itemgetter

from tunebook_data.minhash import (
    SHINGLE_WORDS,
    Array64,
    band_keys,
    buckets,
    meet_before,
    shingle_sets,
    similarity,
)
from tunebook_data.prompts import words
from tunebook_data.rows import Row
from tunebook_data.workers import HERE, Workers, batched
from tunebook_model.conversation import Message, text_of

_CACHED_SHINGLES = 4096
"""Rows whose shingles are kept at hand; candidates are few, so all others are made again when needed."""
_BUCKETS_AHEAD = 256
"""Buckets whose rows are made at once."""
_PART_ROWS = 512
"""What is sent to a worker at once, or one bucket if that is bigger."""

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
    return [
        text_of(each) if "tool_calls" in each else each["content"]
        for each in messages
        if each["role"] != "system"
    ]


def jaccard(a: Shingles, b: Shingles) -> float:
    """Shared of all; 0 where either has none, since that tells of no likeness."""
    return len(a & b) / len(a | b) if a and b else 0.0


def near_duplicates(
    rows: Sequence[Row], near: float, workers: Workers = HERE
) -> dict[int, tuple[int, float]]:
    """Index of each row that repeats an earlier one of its task -> that row's index, and their similarity.

    Two rows whose Jaccard similarity is at least `near` are in one cluster (union-find), for which its first
    row stands. A chain of likenesses can join rows whose similarity to that first row is below `near`; the
    number returned is always that to the first row.

    Workers elsewhere each look into buckets of one band, and know nothing of what other bands have joined;
    that costs comparisons, and changes no cluster.
    """
    keys, filled = band_keys((said(row.all_messages) for row in rows), workers)
    clusters = _Clusters()
    members = _Members(rows)
    found: Iterable[_Likeness]
    if workers.are_here:
        ahead = _ahead(buckets(keys, filled), clusters, members, keys)
        found = _likenesses(ahead, clusters, members, keys, near)
    else:
        parts = _parts(buckets(keys, filled), rows, keys)
        found = chain.from_iterable(workers.map(partial(_likenesses_of_part, near), parts, pool_from=0))
    known = {}
    for i, j, likeness in found:
        known[max(i, j), min(i, j)] = likeness
        clusters.join_first(i, j)
    roots = {i: root for i in sorted(clusters.parent) if (root := clusters.first(i)) != i}
    return {
        i: (root, known.get((i, root)) or similarity(members[i].shingles, members[root].shingles))
        for i, root in roots.items()
    }


@dataclass
class _Clusters:
    """Clusters of rows by number, for each of which its first row stands; others are clusters of one.

    Union-find with path halving (Tarjan and van Leeuwen 1984).
    """

    parent: dict[int, int] = field(default_factory=dict)

    def first(self, i: int) -> int:
        parent = self.parent
        while (above := parent.get(i, i)) != i:
            parent[i] = parent.get(above, above)
            i = parent[i]
        return i

    def join_first(self, i: int, j: int) -> None:
        first, second = sorted((self.first(i), self.first(j)))
        self.parent[second] = first


@dataclass(frozen=True)
class _Member:
    """A row that is compared with others."""

    task: str
    shingles: Array64


class _Members:
    """Rows by number, made when they are asked for or ahead; those asked for last are at hand."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        self._made: dict[int, _Member] = {}

    def __getitem__(self, i: int) -> _Member:
        if i not in self._made:
            self.make([i])
        self._made[i] = made = self._made.pop(i)
        return made

    def make(self, numbers: Iterable[int]) -> None:
        """Have at hand as many of them as can be, which takes a third of the time that one by one takes."""
        missing = [*islice((i for i in numbers if i not in self._made), _CACHED_SHINGLES)]
        rows = [self._rows[i] for i in missing]
        sets = shingle_sets(said(row.all_messages) for row in rows)
        for i, row, made in zip(missing, rows, sets, strict=True):
            self._made[i] = _Member(row.task, made)
        for i in [*islice(self._made, max(0, len(self._made) - _CACHED_SHINGLES))]:
            del self._made[i]


_Bucket = tuple[int, list[int]]
"""Numbers of rows that share the key of a band, in ascending order."""
_Likeness = tuple[int, int, float]
"""Two rows, and how alike they are."""


def _ahead(
    found: Iterable[_Bucket], clusters: _Clusters, members: _Members, keys: Array64
) -> Iterator[_Bucket]:
    """The buckets in which there is something to compare, whose rows are made many at a time."""
    for some in batched(found, _BUCKETS_AHEAD):
        left = [(band, bucket) for band, bucket in some if not _is_known(bucket, band, clusters, keys)]
        members.make(dict.fromkeys(i for _, bucket in left for i in bucket))
        yield from left


def _is_known(bucket: list[int], band: int, clusters: _Clusters, keys: Array64) -> bool:
    """Whether its rows are of one cluster, or two that an earlier band has compared."""
    first, *others = bucket
    cluster = clusters.first(first)
    if all(clusters.first(i) == cluster for i in others):
        return True
    return len(others) == 1 and meet_before(keys[first], keys[others[0]], band)


def _likenesses(
    found: Iterable[_Bucket],
    clusters: _Clusters,
    rows: _Members | Mapping[int, _Member],
    keys: Mapping[int, Array64] | Array64,
    near: float,
) -> Iterator[_Likeness]:
    """As many of the pairs in buckets that are alike as join all their clusters, which they do at once."""
    for band, bucket in found:
        # Its members by cluster: a row need not be compared with its own.
        met: list[list[int]] = []
        for i in bucket:
            apart = []
            mine = [i]
            for members in met:
                if clusters.first(members[0]) == clusters.first(i):
                    mine = members + mine
                    continue
                for j in members:
                    if meet_before(keys[i], keys[j], band) or rows[i].task != rows[j].task:
                        continue
                    if (likeness := similarity(rows[i].shingles, rows[j].shingles)) >= near:
                        yield i, j, likeness
                        clusters.join_first(i, j)
                        mine = members + mine
                        break
                else:
                    apart.append(members)
            met = [*apart, mine]


@dataclass(frozen=True)
class _Part:
    """Buckets of one band, with all that it takes to look into them."""

    band: int
    buckets: list[list[int]]
    rows: dict[int, tuple[str, list[str], Array64]]
    """Task, texts, and keys of each member."""


def _parts(found: Iterable[_Bucket], rows: Sequence[Row], keys: Array64) -> Iterator[_Part]:
    for band, of_band in groupby(found, key=itemgetter(0)):
        part = _Part(band, [], {})
        for _, bucket in of_band:
            part.buckets.append(bucket)
            members = ((i, rows[i]) for i in bucket)
            part.rows.update((i, (row.task, said(row.all_messages), keys[i])) for i, row in members)
            if len(part.rows) >= _PART_ROWS:
                yield part
                part = _Part(band, [], {})
        if part.buckets:
            yield part


def _likenesses_of_part(near: float, part: _Part) -> list[_Likeness]:
    sets = shingle_sets(texts for _, texts, _ in part.rows.values())
    rows = {i: _Member(task, made) for (i, (task, _, _)), made in zip(part.rows.items(), sets, strict=True)}
    keys = {i: keys for i, (_, _, keys) in part.rows.items()}
    found = ((part.band, bucket) for bucket in part.buckets)
    return [*_likenesses(found, _Clusters(), rows, keys, near)]


def near_copies(
    rows: Sequence[Row], parents: Mapping[int, int | None], near: float, workers: Workers = HERE
) -> dict[int, tuple[int, float]]:
    """Index of each generated row that repeats an earlier row of any task -> that row's index, and how much.

    Args:
        rows: those that stay in any case, then the generated ones; of these, one that is a copy is none that
            later ones are compared with.
        parents: index of each generated row -> that of the row it was made from, if that is among them. A row
            is compared with its parent and its siblings in any case, and with what the hashing finds.
        near: Jaccard similarity from which a row is a copy.
        workers: who hashes.
    """

    @lru_cache(_CACHED_SHINGLES)
    def of(i: int) -> Shingles:
        return shingles(said(rows[i].all_messages))

    likely: dict[int, set[int]] = {i: set() for i in parents}
    for _, bucket in buckets(*band_keys((said(row.all_messages) for row in rows), workers)):
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
