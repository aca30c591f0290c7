"""Which of many documents may resemble one another, without comparing every pair.

MinHash and locality-sensitive hashing (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of Massive
Datasets, sec. 3.4): 14 bands of 8 rows, the layout of datatrove, find a pair of documents whose word
3-shingles have the Jaccard similarity s with probability 1 - (1 - s^8)^14, which is 0.77 at 0.75, 0.92 at 0.8
and 0.9996 at 0.9.

Everything here works on arrays over many documents at once, in loops that Numba compiles: the first use on a
machine takes a second for that, later processes load what it left. Letters in names of arrays: T texts, W
words, R runs of N words, S shingles, D documents, B bands.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from tunebook_data.compiled import compiled
from tunebook_data.prompts import OPERATORS, words
from tunebook_data.workers import HERE, Workers, in_threads

BANDS, ROWS_PER_BAND = 14, 8
SHINGLE_WORDS = 3

Document = Sequence[str]
"""Its texts; no shingle runs over two of them."""
Array64 = npt.NDArray[np.uint64]

_CHUNK_CHARS = 1 << 17
"""So that the arrays of a chunk stay in the processor's cache."""
_RANDOM = random.Random(0)  # the same candidates everywhere, always
_IN_WORD, _OPERATOR = 1, 2


def _odd(num: int) -> Array64:
    return np.array([_RANDOM.getrandbits(64) | 1 for _ in range(num)], np.uint64)


def _kinds() -> npt.NDArray[np.uint8]:
    """What each byte of a text is."""
    kinds = np.zeros(256, np.uint8)
    for code in range(256):
        if chr(code).isalnum() or code == ord("_") or code >= 128:
            kinds[code] = _IN_WORD
        elif chr(code) in OPERATORS:
            kinds[code] = _OPERATOR
    return kinds


_KINDS = _kinds()
# A byte and its lower case have the same value.
_VALUES = _odd(256)[[*bytes(range(256)).lower()]]
_WORD_FACTORS = _odd(SHINGLE_WORDS)
_ROW_FACTORS, _ROW_TERMS = (_odd(BANDS * ROWS_PER_BAND).astype(np.uint32) for _ in range(2))
_KEY_FACTORS = _odd(ROWS_PER_BAND)
_BASE = _odd(1)[0]


def band_keys(
    documents: Iterable[Document], workers: Workers = HERE
) -> tuple[Array64, npt.NDArray[np.bool_]]:
    """The key of each document in each band [D, B], and whether it has any word [D].

    Documents that share the key of a band may resemble one another; one without words resembles nothing. The
    keys are the same on every machine.
    """
    made, is_filled = bytearray(), bytearray()
    for keys, filled in _keys_by_chunk(documents, workers):
        made += keys.tobytes()
        is_filled += filled.tobytes()
    return np.frombuffer(made, np.uint64).reshape(-1, BANDS), np.frombuffer(is_filled, np.bool_)


def _keys_by_chunk(
    documents: Iterable[Document], workers: Workers
) -> Iterator[tuple[Array64, npt.NDArray[np.bool_]]]:
    chunks = chunked(documents)
    if workers.are_here:
        return in_threads(_chunk_keys, chunks)
    return workers.map(_chunk_keys, chunks, pool_from=0)


def buckets(keys_DB: Array64, filled_D: npt.NDArray[np.bool_]) -> Iterator[tuple[int, list[int]]]:
    """Every band, with the numbers of documents that share its key, in ascending order."""
    numbers = np.flatnonzero(filled_D)
    for band in range(BANDS):
        keys = keys_DB[numbers, band]
        order = np.argsort(keys)
        starts = np.flatnonzero(np.r_[True, np.diff(keys[order]) != 0])
        ends = np.r_[starts[1:], len(order)]
        for start, end in zip(*(each[ends - starts > 1].tolist() for each in (starts, ends)), strict=True):
            yield band, sorted(numbers[order[start:end]].tolist())


def meet_before(keys_B: Array64, other_B: Array64, band: int) -> bool:
    """Whether two documents share the key of an earlier band."""
    return bool((keys_B[:band] == other_B[:band]).any())


def candidates(
    of: Iterable[Document], among: Iterable[Document], workers: Workers = HERE
) -> Iterator[tuple[int, list[int]]]:
    """Number of a document, and numbers of those it may resemble, if any; both ascend."""
    known, filled = band_keys(among, workers)
    numbers = np.flatnonzero(filled)
    orders = [np.argsort(known[numbers, band], kind="stable") for band in range(BANDS)]
    orders = [numbers[order] for order in orders]
    ordered = [known[order, band] for band, order in enumerate(orders)]
    start = 0
    for keys_DB, filled_D in _keys_by_chunk(of, workers):
        found: dict[int, set[int]] = {}
        for band in range(BANDS):
            left = np.searchsorted(ordered[band], keys_DB[:, band], "left")
            right = np.searchsorted(ordered[band], keys_DB[:, band], "right")
            for at in np.flatnonzero((right > left) & filled_D).tolist():
                found.setdefault(start + at, set()).update(orders[band][left[at] : right[at]].tolist())
        yield from ((number, sorted(found[number])) for number in sorted(found))
        start += len(keys_DB)


def shingle_sets(documents: Iterable[Document]) -> Iterator[Array64]:
    """The hashes of each document's shingles in ascending order, each once [S]."""
    for chunk in chunked(documents):
        hashes_S, counts_D = _shingle_hashes(chunk)
        last_D = np.cumsum(counts_D).tolist()
        for start, last in zip([0, *last_D], last_D, strict=False):
            made_S = np.sort(hashes_S[start:last])
            yield made_S[: _drop_repeats(made_S)]


def similarity(one: Array64, other: Array64) -> float:
    """The Jaccard similarity of two documents' shingle sets, of which neither is empty.

    It is that of the shingles themselves unless two of the n different ones have equal 64-bit hashes, whose
    chance is about n^2 / 2^65: of a million pairs of documents with a thousand shingles, one in 10^7.
    """
    shared = _num_shared(one, other)
    return shared / (len(one) + len(other) - shared)


def chunked(documents: Iterable[Document]) -> Iterator[list[Document]]:
    chunk: list[Document] = []
    num_chars = 0
    for document in documents:
        chunk.append(document)
        num_chars += sum(map(len, document))
        if num_chars >= _CHUNK_CHARS:
            yield chunk
            chunk, num_chars = [], 0
    if chunk:
        yield chunk


def _chunk_keys(documents: Sequence[Document]) -> tuple[Array64, npt.NDArray[np.bool_]]:
    hashes_S, counts_D = _shingle_hashes(documents)
    keys = np.zeros((len(documents), BANDS), np.uint64)
    _put_keys(hashes_S, np.cumsum(counts_D), keys)
    return keys, counts_D > 0


def _shingle_hashes(documents: Sequence[Document]) -> tuple[Array64, npt.NDArray[np.intp]]:
    """A hash of each shingle, document after document [S], and how many each document has [D].

    Equal shingles have equal hashes; one that stands twice in a document is there twice.
    """
    words_W, ends_T = word_hashes(documents)
    # A shorter text is one shingle.
    hashes_S, last_T = run_hashes(words_W, ends_T, _WORD_FACTORS, takes_shorter=True)
    last_D = np.concatenate([[0], last_T])[np.cumsum([0, *map(len, documents)])]
    return hashes_S, np.diff(last_D)


def word_hashes(documents: Iterable[Document]) -> tuple[Array64, npt.NDArray[np.intp]]:
    """A hash of each word, text after text [W], and where those of each text end [T]."""
    texts = [_plain(text) for document in documents for text in document]
    joined = np.frombuffer(b" ".join([*texts, b""]), np.uint8)
    ends_T = np.cumsum([0, *(len(text) + 1 for text in texts)])[1:]
    hashes_W, last_T = np.empty(len(joined), np.uint64), np.empty(len(texts), np.intp)
    _put_words(joined, ends_T, _KINDS, hashes_W, last_T)
    return hashes_W[: last_T[-1] if len(texts) else 0], last_T


def run_hashes(
    words_W: Array64, ends_T: npt.NDArray[np.intp], factors_N: Array64, *, takes_shorter: bool = False
) -> tuple[Array64, npt.NDArray[np.intp]]:
    """A hash of each run of N words within one text [R], and where those of each text end [T].

    Args:
        words_W: hashes of words.
        ends_T: where those of each text end.
        factors_N: odd numbers, one for each place in a run.
        takes_shorter: a text of fewer words is one run.
    """
    hashes_R, last_T = np.empty(len(words_W), np.uint64), np.empty(len(ends_T), np.intp)
    _put_runs(words_W, ends_T, factors_N, takes_shorter, hashes_R, last_T)
    return hashes_R[: last_T[-1] if len(ends_T) else 0], last_T


def _plain(text: str) -> bytes:
    """A text as bytes whose words `_KINDS` can tell."""
    return text.encode() if text.isascii() else " ".join(words(text)).encode()


@compiled
def _put_words(
    text: npt.NDArray[np.uint8],
    ends_T: npt.NDArray[np.intp],
    kinds: npt.NDArray[np.uint8],
    hashes_W: Array64,
    last_T: npt.NDArray[np.intp],
) -> None:
    """Put the hash of each word, a mixed polynomial over its bytes, and how many end with each text."""
    at = num = 0
    for t in range(len(ends_T)):
        while at < ends_T[t]:
            kind = kinds[text[at]]
            if kind == 0:
                at += 1
                continue
            word, power = np.uint64(0), np.uint64(1)
            while True:
                word += _VALUES[text[at]] * power
                power *= _BASE
                at += 1
                if kind == _OPERATOR or kinds[text[at]] != _IN_WORD:
                    break
            hashes_W[num] = _mixed(word)
            num += 1
        last_T[t] = num


@compiled
def _put_runs(
    words_W: Array64,
    ends_T: npt.NDArray[np.intp],
    factors_N: Array64,
    takes_shorter: bool,
    hashes_R: Array64,
    last_T: npt.NDArray[np.intp],
) -> None:
    """Put the hash of each run, a mixed weighted sum over its words, and how many end with each text."""
    start = num = 0
    for t in range(len(ends_T)):
        length = min(ends_T[t] - start, len(factors_N))
        if length > 0 and (takes_shorter or length == len(factors_N)):
            for first in range(start, ends_T[t] - length + 1):
                made = np.uint64(0)
                for n in range(length):
                    made += words_W[first + n] * factors_N[n]
                hashes_R[num] = _mixed(made)
                num += 1
        start = ends_T[t]
        last_T[t] = num


@compiled
def _put_keys(hashes_S: Array64, last_D: npt.NDArray[np.intp], keys_DB: Array64) -> None:
    """Put the least of each row's hashes over a document's shingles, the rows of a band made one key."""
    least = np.empty(BANDS * ROWS_PER_BAND, np.uint32)
    start = 0
    for d in range(len(last_D)):
        if start == last_D[d]:
            continue
        least[:] = 0xFFFFFFFF
        for s in range(start, last_D[d]):
            value = np.uint32(hashes_S[s] >> np.uint64(32))
            for row in range(len(least)):
                hashed = np.uint32(value * _ROW_FACTORS[row] + _ROW_TERMS[row])
                least[row] = min(least[row], hashed)
        for row in range(len(least)):
            keys_DB[d, row // ROWS_PER_BAND] += least[row] * _KEY_FACTORS[row % ROWS_PER_BAND]
        for band in range(BANDS):
            keys_DB[d, band] = _mixed(keys_DB[d, band])
        start = last_D[d]


@compiled
def _drop_repeats(sorted_S: Array64) -> int:
    """Put the distinct values first; how many they are."""
    num = 0
    for s in range(len(sorted_S)):
        if num == 0 or sorted_S[s] != sorted_S[num - 1]:
            sorted_S[num] = sorted_S[s]
            num += 1
    return num


@compiled
def _num_shared(one_S: Array64, other_S: Array64) -> int:
    i = j = shared = 0
    while i < len(one_S) and j < len(other_S):
        a, b = one_S[i], other_S[j]
        shared += a == b
        i += a <= b
        j += b <= a
    return shared


@compiled
def _mixed(value: np.uint64) -> np.uint64:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
