"""Near duplicates among documents of 3-word shingles, by MinHash in 14 bands of 8 rows, for everyone.

Seven in twenty documents are one of a pair that differs in as many words as `CHANGED` says; all others have
nothing in common. Who drops a document of a pair has found it. Ours also verifies every candidate by its
exact similarity (at least 0.5 here, below all that is planted), which the peers do not. Reading the file is
part of everyone's time.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import US, Answer, BenchError, Benchmark, Peer

WORDS = 200
"""Of a document that has a copy, and on average of any."""
CHANGED = (3, 7, 9, 11, 16)
"""Words changed in a copy, far enough apart that each changes three shingles."""
NUM_PAIRS_OF_TWENTY = 7
BANDS, ROWS_PER_BAND = 14, 8
POINT = 0.01
PEER_POINTS = 0.05
"""How far off the curve a peer may be and yet do the same work: how well it hashes is its own matter."""


def similarity(changed: int) -> float:
    shingles = WORDS - 2
    return (shingles - 3 * changed) / (shingles + 3 * changed)


def curve(jaccard: float) -> float:
    """The share of pairs of this similarity that bands find."""
    return 1 - (1 - jaccard**ROWS_PER_BAND) ** BANDS


def make(folder: Path, size: int) -> None:
    """`documents.jsonl`, and `pairs.json`: by words changed, the line numbers of each pair."""
    rng = random.Random(size)
    documents: list[tuple[int, int | None, str]] = []
    for pair, changed in _pairs(size):
        words = _words(rng, WORDS)
        copy = list(words)
        for at in rng.sample(range(1, WORDS // 4), changed):
            copy[4 * at] = _word(rng)
        documents += [(changed, pair, " ".join(words)), (changed, pair, " ".join(copy))]
    while len(documents) < size:
        documents.append((0, None, " ".join(_words(rng, rng.randint(WORDS // 2, WORDS * 3 // 2)))))
    rng.shuffle(documents)
    places: dict[tuple[int, int], list[int]] = {}
    with (folder / "documents.jsonl").open("w") as file:
        for number, (changed, of, text) in enumerate(documents):
            # The prompt has no words, hence no shingles: the text alone decides.
            file.write(json.dumps({"id": str(number), "prompt": "?", "completion": text}) + "\n")
            if of is not None:
                places.setdefault((changed, of), []).append(number)
    pairs = {changed: [at for (each, _), at in places.items() if each == changed] for changed in CHANGED}
    (folder / "pairs.json").write_text(json.dumps(pairs))


def equal(folder: Path, answers: Mapping[str, Answer]) -> dict[str, Any]:
    """Everyone's recall at each similarity beside the curve; nothing else may be dropped.

    Ours is within a point of it, a peer's within a few. Of a share p among n pairs the standard error is
    sqrt(p (1 - p) / n), three of which come on top.
    """
    pairs = json.loads((folder / "pairs.json").read_text())
    planted = {number for each in pairs.values() for pair in each for number in pair}
    told: dict[str, Any] = {"bands": [BANDS, ROWS_PER_BAND], "recall": {}}
    for changed, each in pairs.items():
        expected = curve(similarity(int(changed)))
        stderr = (expected * (1 - expected) / len(each)) ** 0.5
        row = {"curve": round(expected, 4), "pairs": len(each), "stderr": round(stderr, 4)}
        for name, answer in answers.items():
            dropped = set(answer["dropped"])
            row[name] = round(sum(not dropped.isdisjoint(pair) for pair in each) / len(each), 4)
            if abs(row[name] - expected) > (POINT if name == US else PEER_POINTS) + 3 * stderr:
                raise BenchError(
                    f"{name}: recall {row[name]} at {similarity(int(changed)):.3f}, not {expected:.4f}"
                )
        told["recall"][f"{similarity(int(changed)):.3f}"] = row
    told["wrongly_dropped"] = {name: len(set(each["dropped"]) - planted) for name, each in answers.items()}
    if any(told["wrongly_dropped"].values()):
        raise BenchError(f"documents that resemble no other were dropped: {told['wrongly_dropped']}")
    return told


def _pairs(size: int) -> Iterator[tuple[int, int]]:
    for pair in range(size * NUM_PAIRS_OF_TWENTY // 40):
        yield pair, CHANGED[pair % len(CHANGED)]


def _words(rng: random.Random, num: int) -> list[str]:
    return [_word(rng) for _ in range(num)]


_SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]


def _word(rng: random.Random) -> str:
    """One of 343,000, which every peer's tokenizer takes for one word."""
    return "".join(rng.choices(_SYLLABLES, k=3))


BENCHMARK = Benchmark(
    name="data_dedup",
    size=200_000,
    peers=(
        Peer("datasketch", ("datasketch==2.0.0", "orjson==3.13.0")),
        Peer("datatrove", ("datatrove[io,processing]==0.10.1", "spacy", "orjson==3.13.0"), max_size=20_000),
    ),
    make=make,
    equal=equal,
)
