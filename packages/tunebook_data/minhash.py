"""Which of many documents may resemble one another, without comparing every pair.

MinHash and locality-sensitive hashing (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of Massive
Datasets, sec. 3.4): 14 bands of 8 rows, the layout of datatrove, find a pair of documents whose word
3-shingles have the Jaccard similarity s with probability 1 - (1 - s^8)^14, which is 0.77 at 0.75, 0.92 at 0.8
and 0.9996 at 0.9.

Everything here works on arrays over many documents at once. Letters in names of arrays: C characters, W
words, S shingles, D documents, B bands.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from tunebook_data.prompts import OPERATORS, words
from tunebook_data.workers import HERE, Workers

BANDS, ROWS_PER_BAND = 14, 8
SHINGLE_WORDS = 3

Document = Sequence[str]
"""Its texts; no shingle runs over two of them."""
Array64 = npt.NDArray[np.uint64]

_CHUNK_CHARS = 1 << 17
"""So that the arrays of a chunk stay in the processor's cache."""
POOL_CHUNKS = 256
"""Fewer are done before a second process would have begun."""
_RANDOM = random.Random(0)  # the same candidates everywhere, always
_IN_WORD, _OPERATOR = 1, 2


def _odd(num: int) -> Array64:
    return np.array([_RANDOM.getrandbits(64) | 1 for _ in range(num)], np.uint64)


def _byte_tables() -> tuple[bytes, bytes]:
    """For bytes.translate: each byte of a text in lower case, and what the byte is."""
    kinds = bytearray(256)
    for code in range(256):
        if chr(code).isalnum() or code == ord("_") or code >= 128:
            kinds[code] = _IN_WORD
        elif chr(code) in OPERATORS:
            kinds[code] = _OPERATOR
    return bytes(range(256)).lower(), bytes(kinds)


_LOWER, _KINDS = _byte_tables()
_VALUE_OF_BYTE = _odd(256)
_WORD_FACTORS = _odd(SHINGLE_WORDS)
_ROW_FACTORS, _ROW_TERMS = (_odd(BANDS * ROWS_PER_BAND).astype(np.uint32) for _ in range(2))
_KEY_FACTORS = _odd(ROWS_PER_BAND)
_BASE = int(_odd(1)[0])


def band_keys(
    documents: Iterable[Document], workers: Workers = HERE
) -> tuple[Array64, npt.NDArray[np.bool_]]:
    """The key of each document in each band [D, B], and whether it has any word [D].

    Documents that share the key of a band may resemble one another; one without words resembles nothing. The
    keys are the same on every machine.
    """
    made = [*workers.map(_chunk_keys, _chunks(documents), pool_from=POOL_CHUNKS)]
    if not made:
        return np.empty((0, BANDS), np.uint64), np.empty(0, np.bool_)
    return np.concatenate([keys for keys, _ in made]), np.concatenate([filled for _, filled in made])


def buckets(keys_DB: Array64, filled_D: npt.NDArray[np.bool_]) -> Iterator[tuple[int, list[int]]]:
    """Every band, with the numbers of documents that share its key, in ascending order."""
    numbers = np.flatnonzero(filled_D)
    for band in range(BANDS):
        keys = keys_DB[numbers, band]
        order = np.argsort(keys, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(keys[order]) != 0])
        ends = np.r_[starts[1:], len(order)]
        for start, end in zip(*(each[ends - starts > 1].tolist() for each in (starts, ends)), strict=True):
            yield band, numbers[order[start:end]].tolist()


def meet_before(keys_B: Array64, other_B: Array64, band: int) -> bool:
    """Whether two documents share the key of an earlier band."""
    return bool((keys_B[:band] == other_B[:band]).any())


def candidates(
    of: Iterable[Document], among: Iterable[Document], workers: Workers = HERE
) -> dict[int, list[int]]:
    """Number of a document -> numbers of those it may resemble, in ascending order; none: not in it."""
    (keys, filled), (known, known_filled) = band_keys(of, workers), band_keys(among, workers)
    numbers, known_numbers = np.flatnonzero(filled), np.flatnonzero(known_filled)
    found: dict[int, set[int]] = {}
    for band in range(BANDS):
        order = np.argsort(known[known_numbers, band], kind="stable")
        ordered = known[known_numbers, band][order]
        left = np.searchsorted(ordered, keys[numbers, band], "left")
        right = np.searchsorted(ordered, keys[numbers, band], "right")
        for at in np.flatnonzero(right > left):
            found.setdefault(int(numbers[at]), set()).update(
                known_numbers[order[left[at] : right[at]]].tolist()
            )
    return {number: sorted(found[number]) for number in sorted(found)}


def _chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
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
    filled = counts_D > 0
    keys = np.zeros((len(documents), BANDS), np.uint64)
    if len(hashes_S):
        keys[filled] = _keys(hashes_S, np.r_[0, np.cumsum(counts_D[filled])[:-1]])
    return keys, filled


def _keys(hashes_S: Array64, starts_D: npt.NDArray[np.intp]) -> Array64:
    """The least of each row's hashes over a document's shingles, and the rows of a band made one key."""
    values_S = (hashes_S >> np.uint64(32)).astype(np.uint32)
    hashed_S = np.empty_like(values_S)
    keys_DB = np.zeros((len(starts_D), BANDS), np.uint64)
    for band in range(BANDS):
        for row in range(ROWS_PER_BAND):
            np.multiply(values_S, _ROW_FACTORS[band * ROWS_PER_BAND + row], out=hashed_S)
            np.add(hashed_S, _ROW_TERMS[band * ROWS_PER_BAND + row], out=hashed_S)
            least_D = np.minimum.reduceat(hashed_S, starts_D)
            keys_DB[:, band] += least_D * _KEY_FACTORS[row]
    return _mixed(keys_DB)


def _shingle_hashes(documents: Sequence[Document]) -> tuple[Array64, npt.NDArray[np.intp]]:
    """A hash of each shingle, document after document [S], and how many each document has [D].

    Equal shingles have equal hashes; one that stands twice in a document is there twice.
    """
    texts = [_plain(text) for document in documents for text in document]
    joined = b" ".join([*texts, b""]).translate(_LOWER)
    lengths = np.fromiter(map(len, texts), np.intp, len(texts))
    hashes_W, starts_W = _word_hashes(joined)
    ends_of_texts = np.searchsorted(starts_W, np.cumsum(lengths + 1))
    words_in_text = np.diff(ends_of_texts, prepend=0)
    left_W = np.repeat(ends_of_texts, words_in_text) - np.arange(len(starts_W))
    is_first_W = left_W == np.repeat(words_in_text, words_in_text)
    padded = np.concatenate([hashes_W, np.zeros(SHINGLE_WORDS - 1, np.uint64)])
    made_W = hashes_W * _WORD_FACTORS[0]
    for ahead in range(1, SHINGLE_WORDS):
        later = padded[ahead : ahead + len(hashes_W)] * _WORD_FACTORS[ahead]
        made_W += later * (left_W > ahead)
    kept_W = (left_W >= SHINGLE_WORDS) | is_first_W
    per_text = np.where(words_in_text, np.maximum(words_in_text - SHINGLE_WORDS + 1, 1), 0)
    text_ends = np.cumsum([len(document) for document in documents])
    counts_D = np.diff(np.r_[0, np.cumsum(per_text)][text_ends], prepend=0)
    return _mixed(made_W[kept_W]), counts_D


def _plain(text: str) -> bytes:
    """A text as bytes whose words `_KINDS` can tell."""
    return text.encode() if text.isascii() else " ".join(words(text)).encode()


def _word_hashes(text: bytes) -> tuple[Array64, npt.NDArray[np.intp]]:
    """A hash of each word of a text in lower case, and where the word begins."""
    kinds_C = np.frombuffer(text.translate(_KINDS), np.uint8)
    is_inner, is_operator = kinds_C == _IN_WORD, kinds_C == _OPERATOR
    goes_on = is_inner[1:] & is_inner[:-1]
    starts = np.flatnonzero(is_operator | (is_inner & ~np.r_[False, goes_on]))
    ends = np.flatnonzero(is_operator | (is_inner & ~np.r_[goes_on, False])) + 1
    # The polynomial over its bytes, from sums over the whole text: sum of v(c_i) * base^i, over base^start.
    powers_C, inverse_C = _POWERS if len(text) <= len(_POWERS[0]) else _powers(len(text))
    sums = np.zeros(len(text) + 1, np.uint64)
    values_C = _VALUE_OF_BYTE[np.frombuffer(text, np.uint8)]
    np.cumsum(np.multiply(values_C, powers_C[: len(text)], out=values_C), out=sums[1:])
    return _mixed((sums[ends] - sums[starts]) * inverse_C[starts]), starts


def _powers(num: int) -> tuple[Array64, Array64]:
    """The powers of the base and of its inverse modulo 2^64."""
    made = []
    for base in (_BASE, pow(_BASE, -1, 1 << 64)):
        powers = np.full(num, base, np.uint64)
        powers[:1] = 1
        made.append(np.cumprod(powers, out=powers))
    return made[0], made[1]


_POWERS = _powers(2 * _CHUNK_CHARS)


def _mixed(values: Array64) -> Array64:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014), in place."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values ^= values >> np.uint64(shift)
        values *= np.uint64(factor)
    values ^= values >> np.uint64(31)
    return values
