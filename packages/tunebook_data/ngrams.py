"""N-grams of any number of documents, by their hashes.

Letters in names of arrays: G n-grams, D documents, W words, T texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from tunebook_data.compiled import compiled
from tunebook_data.minhash import Array64, Document, chunked, run_hashes, word_hashes
from tunebook_data.workers import in_threads

Numbers = npt.NDArray[np.intp]
_BITS_A_HASH = 16
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Grams:
    """N-grams of documents, in their order."""

    hashes_G: Array64
    """Equal for equal n-grams; of a hundred million, two others are equal with a chance of 1 in 3,000."""
    documents_G: Numbers
    """The number of the document that each is in."""
    starts_G: Numbers
    """The number of its first word, in all texts of the document."""

    @classmethod
    def joined(cls, parts: Iterable[Grams]) -> Grams:
        none = np.empty(0, np.intp)
        parts = [cls(none.astype(np.uint64), none, none), *parts]
        arrays = ((each.hashes_G, each.documents_G, each.starts_G) for each in parts)
        return cls(*map(np.concatenate, zip(*arrays, strict=True)))

    def take(self, chosen: npt.NDArray[np.bool_] | Numbers) -> Grams:
        return Grams(self.hashes_G[chosen], self.documents_G[chosen], self.starts_G[chosen])


def grams_of(documents: Iterable[Document], n: int) -> Iterator[tuple[Grams, npt.NDArray[np.int32]]]:
    """The n-grams of documents, some documents at a time, and how many words each of these has [D]."""
    start = 0
    for grams, num_words_D in in_threads(partial(_of_chunk, n), chunked(documents)):
        yield Grams(grams.hashes_G, grams.documents_G + start, grams.starts_G), num_words_D
        start += len(num_words_D)


def _of_chunk(n: int, documents: Sequence[Document]) -> tuple[Grams, npt.NDArray[np.int32]]:
    words_W, ends_T = word_hashes(documents)
    factors = np.cumprod(np.full(n, _FACTOR), dtype=np.uint64)
    hashes_G, last_T = run_hashes(words_W, ends_T, factors)
    num_texts_D = np.array([*map(len, documents)], np.intp)
    first_text_D = np.cumsum(num_texts_D) - num_texts_D
    document_T = np.repeat(np.arange(len(documents)), num_texts_D)
    counts_T = np.diff(last_T, prepend=0)
    text_G = np.repeat(np.arange(len(ends_T)), counts_T)
    starts_T = np.concatenate([[0], ends_T])
    first_word_G = np.arange(len(hashes_G)) - (last_T - counts_T)[text_G] + starts_T[text_G]
    starts_G = first_word_G - starts_T[first_text_D[document_T[text_G]]]
    num_words_D = np.diff(starts_T[np.concatenate([first_text_D, [len(ends_T)]])])
    return Grams(hashes_G, document_T[text_G], starts_G), num_words_D.astype(np.int32)


class Filter:
    """Hashes of which only some bits are held: it finds all that were added, and a few more in a thousand."""

    def __init__(self, num_hashes: int) -> None:
        """`num_hashes` will be added; each takes two to four bytes."""
        bits = max(6, (_BITS_A_HASH * num_hashes).bit_length())
        self._shift = np.uint64(64 - bits)
        self._words = np.zeros(1 << (bits - 6), np.uint64)

    def add(self, hashes: Array64) -> None:
        _set(self._words, self._shift, hashes)

    def finds(self, hashes: Array64) -> npt.NDArray[np.bool_]:
        found = np.empty(len(hashes), np.bool_)
        _get(self._words, self._shift, hashes, found)
        return found


@compiled
def _set(words: Array64, shift: np.uint64, hashes: Array64) -> None:
    for each in hashes:
        for bit in (each >> shift, (each * _FACTOR) >> shift):
            words[bit >> np.uint64(6)] |= np.uint64(1) << (bit & np.uint64(63))


@compiled
def _get(words: Array64, shift: np.uint64, hashes: Array64, found: npt.NDArray[np.bool_]) -> None:
    for i in range(len(hashes)):
        found[i] = True
        for bit in (hashes[i] >> shift, (hashes[i] * _FACTOR) >> shift):
            if not (words[bit >> np.uint64(6)] >> (bit & np.uint64(63))) & np.uint64(1):
                found[i] = False
