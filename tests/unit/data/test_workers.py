"""Whoever works on the chunks, the same comes out."""

from __future__ import annotations

import multiprocessing
import pickle
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.unit.data.chunk_functions import process_of, refuse_five, square
from tests.unit.data.far_workers import FarWorkers
from tests.unit.data.preparing import prepared
from tests.unit.data.test_prepare import digests
from tunebook_data import checked, minhash, near_duplicates, scan, workers
from tunebook_data.rows import Row
from tunebook_data.workers import HERE, Workers, batched
from tunebook_inference.generator import ChatRequest
from tunebook_inference.kept_answers import KeptAnswers
from tunebook_inference.scripted import ScriptedGenerator
from tunebook_inference.supporting import SupportingModel
from tunebook_spec.errors import DataError, StageError

MakeRow = Callable[..., Row]


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.os, "sched_getaffinity", lambda _: {0, 1})


def test_results_come_in_the_order_of_the_chunks_and_few_are_asked_for_ahead(two_cores: None) -> None:
    asked = []

    def chunks() -> Any:
        for number in range(40):
            asked.append(number)
            yield number

    results = HERE.map(square, chunks(), pool_from=2)
    assert [next(results), next(results)] == [0, 1]
    assert len(asked) < 10
    assert [*results] == [number * number for number in range(2, 40)]


@pytest.mark.parametrize(("num", "is_pooled"), [(3, False), (4, True)], ids=["few", "many"])
def test_a_second_process_begins_where_it_is_worth_it(two_cores: None, num: int, is_pooled: bool) -> None:
    names = {*HERE.map(process_of, range(num), pool_from=4)}
    assert (multiprocessing.current_process().name not in names) == is_pooled


def test_an_error_is_raised_in_its_turn(two_cores: None) -> None:
    for pool_from in (2, 100):
        results = HERE.map(refuse_five, range(9), pool_from=pool_from)
        assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
        with pytest.raises(DataError, match="five"):
            next(results)


def test_a_batch_is_never_empty() -> None:
    assert [*map(len, batched(range(7), 3))] == [3, 3, 1]
    assert [*batched((), 3)] == []


def chat(question: str, *answer: str, **fields: Any) -> dict[str, Any]:
    said = [{"role": "assistant", "content": each} for each in answer]
    return {"messages": [{"role": "user", "content": question}, *said], **fields}


LONG = [f"{' '.join(f'w{n}x{k}' for k in range(20))}?" for n in range(60)]
ROWS: list[Any] = [
    *[chat(text, f"It is thing {n}.", topic=f"t{n}") for n, text in enumerate(LONG)],
    *[chat(f"{text} Now", f"It is thing {n}.", topic=f"u{n}") for n, text in enumerate(LONG) if n % 3 == 0],
    chat("Too short", "No.", topic="t1"),
    chat("Whose?", "Of jane@doe-mail.org, as I said.", topic="t2"),
    chat("So long?", "It is " + "very " * 600 + "long.", topic="t2"),
    b"broken",
]
PROMPTS = [chat(f"Who made case {n}?", topic=f"p{n}") for n in range(20)]


def say(request: ChatRequest) -> str:
    return f"The maker of {request.messages[-1]['content'][9:-1]} is known."


@pytest.mark.parametrize("distills", [False, True], ids=["lines", "records and a teacher"])
def test_a_data_set_made_far_away_is_byte_for_byte_the_same(
    tiny_llama: Path,
    tmp_path: Path,
    write_jsonl: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    distills: bool,
) -> None:
    monkeypatch.setattr(scan, "RANGE_BYTES", 3000)
    monkeypatch.setattr(checked, "ROWS_A_CHUNK", 7)
    monkeypatch.setattr(minhash, "_CHUNK_CHARS", 2000)
    monkeypatch.setattr(near_duplicates, "_PART_ROWS", 5)
    write_jsonl([*ROWS, *PROMPTS] if distills else ROWS)
    source = {
        "kind": "file",
        "path": "rows.jsonl",
        "task": "thing",
        "split": {"group_by": "topic", "test": 0.2},
    }
    given: dict[str, Any] = {"sources": [source], "dedup": {"near": 0.8}}
    if distills:
        given["distill"] = {"teacher": "teacher"}

    def run(name: str, who: Workers) -> dict[str, str]:
        kept = KeptAnswers(tmp_path / f"{name}.sqlite")
        teacher = SupportingModel("teacher", "t", ScriptedGenerator(say), kept)
        prepared(tmp_path, tiny_llama, given, out=name, models={"teacher": teacher}, workers=who)
        return digests(tmp_path / name)

    far = FarWorkers()
    assert run("far", far) == run("here", HERE)
    for name in ("_rendered_chunk", "_chunk_keys", "_likenesses_of_part"):
        assert far.chunks[name] > 3, name
    assert far.chunks["_judged" if distills else "_scan_lines"] > 3
    assert far.chunks.get("_check_chunk", 0) == (3 if distills else 0)


@pytest.mark.parametrize("seed", range(4))
def test_clusters_are_the_same_however_bands_are_parted(
    make_row: MakeRow, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chains of likenesses, huge buckets and two tasks."""
    monkeypatch.setattr(near_duplicates, "_PART_ROWS", 3)
    rng = random.Random(seed)
    rows = []
    for _ in range(12):
        words = [f"w{rng.randrange(30)}" for _ in range(30)]
        for _ in range(rng.randrange(1, 9)):
            words[rng.randrange(30)] = f"v{rng.randrange(5)}"
            rows.append(replace(make_row(" ".join(words)), task=rng.choice("aab")))
    rng.shuffle(rows)
    far = FarWorkers()
    found = near_duplicates.near_duplicates(rows, 0.7, far)
    assert found == near_duplicates.near_duplicates(rows, 0.7)
    assert len(found) > 5
    assert far.chunks["_likenesses_of_part"] > minhash.BANDS


def test_a_host_with_other_versions_works_on_nothing() -> None:
    from tunebook_data import ray_workers

    batch = pa.table({"number": [0], "pickle": [pickle.dumps(3)]})

    def outcome(expected: dict[str, str]) -> Any:
        return pickle.loads(ray_workers.apply(batch, pickle.dumps(square), expected)["pickle"][0].as_py())

    has = ray_workers.versions()
    assert outcome(has) == 9
    error = outcome({**has, "tokenizers": "0.1"}).error
    assert isinstance(error, StageError)
    assert f"has tokenizers {has['tokenizers']}, not 0.1: its rows might differ" in str(error)
