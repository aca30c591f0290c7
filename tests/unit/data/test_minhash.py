from __future__ import annotations

import random

import numpy as np
import pytest

from tunebook_data import minhash
from tunebook_data.minhash import BANDS, band_keys, buckets, candidates, meet_before
from tunebook_data.near_duplicates import jaccard, shingles


def pairs_of(shared: int, union: int, num_pairs: int) -> list[tuple[str, str]]:
    """Two texts each, of which exactly `shared` of `union` word 3-shingles are common."""
    rng = random.Random(shared)
    made = []
    for _ in range(num_pairs):
        words = [f"{rng.getrandbits(40):x}" for _ in range(shared + 2)]
        more = [[f"{rng.getrandbits(40):x}" for _ in range(n)] for n in halves(union - shared)]
        made.append((" ".join(words + more[0]), " ".join(words + more[1])))
    return made


def halves(number: int) -> tuple[int, int]:
    return number // 2, number - number // 2


@pytest.mark.parametrize("union", [30, 100])
@pytest.mark.parametrize("shared", [0.5, 0.6, 0.7, 0.8, 0.9])
def test_recall_follows_the_banding_curve(shared: float, union: int) -> None:
    pairs = pairs_of(round(shared * union), union, 5000)
    assert jaccard(shingles(pairs[0][:1]), shingles(pairs[0][1:])) == shared
    first, second = (band_keys([text] for text in texts)[0] for texts in zip(*pairs, strict=True))
    found = float((first == second).any(axis=1).mean())
    expected = 1 - (1 - shared**8) ** 14
    assert abs(found - expected) < 4 * (expected * (1 - expected) / len(pairs)) ** 0.5 + 0.001


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("One, two; THREE four.", "one two\tthree -- four".replace("--", ",")),
        ("two  words", "Two words!"),
        ("Ça va très bien", "ÇA VA, TRE\u0300S BIEN"),
        ("日本語です", "日本 語です。"),
        ("2+2=4", "2 + 2 = 4"),
        ("snake_case it is", "Snake_Case it is"),
    ],
)
def test_texts_of_equal_shingles_have_equal_keys(one: str, other: str) -> None:
    assert shingles([one]) == shingles([other])
    keys, filled = band_keys([["something else"], [one], [other]])
    assert filled.all()
    assert (keys[1] == keys[2]).all()
    assert not (keys[0] == keys[1]).any()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["2+2"], ["2-2"]),
        (["a b c", "d e f"], ["a b c d e f"]),
        (["a b"], ["b a"]),
        (["a b"], ["ab"]),
        (["a", "b"], ["a b"]),
        (["été"], ["ete"]),
    ],
)
def test_texts_of_other_shingles_have_other_keys(one: list[str], other: list[str]) -> None:
    assert shingles(one) != shingles(other)
    keys, _ = band_keys([one, other])
    assert not (keys[0] == keys[1]).all()


def test_documents_are_told_apart_wherever_a_chunk_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(0)
    documents = [
        [" ".join(f"w{rng.randrange(50)}" for _ in range(rng.randrange(9))) for _ in range(rng.randrange(4))]
        for _ in range(300)
    ]
    whole, filled = band_keys(documents)
    assert filled.tolist() == [bool(shingles(texts)) for texts in documents]
    monkeypatch.setattr(minhash, "_CHUNK_CHARS", 40)
    parts, parts_filled = band_keys(iter(documents))
    assert (whole == parts).all()
    assert (filled == parts_filled).all()
    same = {(i, j) for i in range(300) for j in range(i) if (whole[i] == whole[j]).all() and filled[i]}
    assert same >= {
        (i, j)
        for i in range(300)
        for j in range(i)
        if filled[i] and shingles(documents[i]) == shingles(documents[j])
    }


def test_no_documents_and_documents_without_words_resemble_nothing() -> None:
    keys, filled = band_keys([])
    assert keys.shape == (0, BANDS)
    assert not list(buckets(keys, filled))
    keys, filled = band_keys([["?!"], [], [""], ["?!"]])
    assert not filled.any()
    assert not list(buckets(keys, filled))
    assert not list(candidates([["?!"]], [["?!"]]))
    assert not list(candidates([["a b c"]], []))


def test_documents_that_share_a_key_are_in_a_bucket_and_are_candidates() -> None:
    documents = [["one two three four"], ["?"], ["other words are here"], ["One two three four!"]]
    keys, filled = band_keys(documents)
    assert list(buckets(keys, filled)) == [(band, [0, 3]) for band in range(BANDS)]
    assert not meet_before(keys[0], keys[3], 0)
    assert meet_before(keys[0], keys[3], 1)
    assert dict(candidates(documents, documents)) == {0: [0, 3], 2: [2], 3: [0, 3]}


def test_keys_are_the_same_on_every_machine() -> None:
    keys, _ = band_keys([["The quick brown fox jumps over the lazy dog."]])
    assert np.bitwise_xor.reduce(keys[0]) == 2164635852914656559
