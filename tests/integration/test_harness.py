from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import (
    data_dedup,
    data_validate,
    generate,
    harness,
    judge,
    train_full,
    train_lora,
    train_memory,
    train_start,
    training,
)
from tests.benchmarks.harness import US, Answer, BenchError, Benchmark, Peer, run
from tunebook_data.tokens import TokenTable

SCRIPT = """
import time
from contender import compete

def work(folder):
    time.sleep({seconds})
    return len((folder / "rows.txt").read_text().splitlines())

compete(work, lambda rows: {{"rows": rows + {too_many}}})
"""


def tiny(folder: Path, *peers: Peer) -> Benchmark:
    def make(to: Path, size: int) -> None:
        (to / "rows.txt").write_text("row\n" * size)

    def equal(_: Path, answers: Mapping[str, Answer]) -> dict[str, Any]:
        if len({answer["rows"] for answer in answers.values()}) > 1:
            raise BenchError(f"rows differ: {answers}")
        return {"rows": answers[US]["rows"]}

    return Benchmark("tiny", 10, peers, make, equal)


def script(folder: Path, name: str, seconds: float, too_many: int = 0) -> None:
    (folder / f"tiny_{name}.py").write_text(SCRIPT.format(seconds=seconds, too_many=too_many))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "scripts").mkdir()
    monkeypatch.setattr(harness, "WORK", tmp_path / "work")
    made = tmp_path / "scripts"
    shutil.copy(harness.SCRIPTS / "contender.py", made)
    return made


def test_a_benchmark_ends_in_one_json_object_with_ratios_by_peer(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = tiny(folder, Peer("slow", ()), Peer("slowest", (), max_size=4))
    for name, seconds in ((US, 0.02), ("slow", 0.1), ("slowest", 0.2)):
        script(folder, name, seconds)
    monkeypatch.setattr(harness, "SCRIPTS", folder)
    said: list[str] = []
    made = json.loads(json.dumps(run(benchmark, size=10, repeats=3, say=said.append)))
    assert list(made) == ["name", "ratios", "measured", "raw", "equal", "versions", "machine"]
    assert made["name"] == "tiny"
    assert 2 < made["ratios"]["slow"] < made["ratios"]["slowest"] < 12
    assert {name: len(seconds) for name, seconds in made["raw"].items()} == {
        US: 3,
        "slow": 3,
        "tunebook at 4": 3,
        "slowest": 3,
    }
    assert {name: each["rows"] for name, each in made["measured"].items()} == {
        US: 10,
        "slow": 10,
        "tunebook at 4": 4,
        "slowest": 4,
    }
    assert made["equal"] == {"10": {"rows": 10}, "4": {"rows": 4}}
    assert set(made["machine"]) == {"cpu", "cores", "memory_gib", "load_1min", "python", "system"}
    turns = [line.split(": ")[1].split()[0] for line in said if "repeat" in line]
    assert turns[:6] == [US, "slow", "slow", US, US, "slow"]


def test_contenders_that_did_not_do_the_same_give_no_ratio(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = tiny(folder, Peer("other", ()))
    script(folder, US, 0)
    script(folder, "other", 0, too_many=1)
    monkeypatch.setattr(harness, "SCRIPTS", folder)
    with pytest.raises(BenchError, match="rows differ"):
        run(benchmark, size=3, repeats=1, say=lambda line: None)


def test_a_contender_that_fails_is_told_with_its_last_words(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = tiny(folder)
    (folder / f"tiny_{US}.py").write_text("raise SystemExit('no such thing')")
    monkeypatch.setattr(harness, "SCRIPTS", folder)
    with pytest.raises(BenchError, match=r"tiny_tunebook\.py failed:\nno such thing"):
        run(benchmark, size=3, repeats=1, say=lambda line: None)


def test_an_environment_that_pip_cannot_make_is_told(folder: Path) -> None:
    with pytest.raises(BenchError, match="no environment for none"):
        harness.environment(Peer("none", ("./no-such-folder",)), lambda line: None)


def ours(benchmark: Benchmark, size: int, folder: Path) -> tuple[Answer, Path]:
    made = folder / "input"
    made.mkdir()
    benchmark.make(made, size)
    return harness._one(Path(sys.executable), benchmark.name, US, made).answer, made


def test_validation_finds_what_was_planted_and_tells_a_peer_that_does_not(folder: Path) -> None:
    answer, made = ours(data_validate.BENCHMARK, 3000, folder)
    assert len(answer["rejects"]) > 6
    assert answer["duplicates"] > 20
    answers = {US: answer, "pydantic_rows": answer, "raw_orjson": {"lines": 3000}}
    assert data_validate.equal(made, answers)["lines"] == 3000
    wrong = {**answer, "duplicates": answer["duplicates"] + 1}
    with pytest.raises(BenchError, match="planted"):
        data_validate.equal(made, {**answers, US: wrong, "pydantic_rows": wrong})
    with pytest.raises(BenchError, match="ours"):
        data_validate.equal(made, {**answers, "pydantic_rows": {}})


def test_near_duplicates_are_found_as_the_curve_says_and_a_peer_that_does_not_is_told(folder: Path) -> None:
    answer, made = ours(data_dedup.BENCHMARK, 2000, folder)
    told = data_dedup.equal(made, {US: answer})
    assert list(told["recall"]) == ["0.913", "0.808", "0.760", "0.714", "0.610"]
    assert told["wrongly_dropped"] == {US: 0}
    alike = json.loads((made / "pairs.json").read_text())["3"]
    less = {"dropped": [*set(answer["dropped"]).difference(*alike[:2])]}
    data_dedup.equal(made, {US: answer, "peer": less})
    with pytest.raises(BenchError, match=r"tunebook: recall 0\.97\d* at 0\.913"):
        data_dedup.equal(made, {US: less})
    with pytest.raises(BenchError, match=r"peer: recall 0\.0 at 0\.913"):
        data_dedup.equal(made, {US: answer, "peer": {"dropped": []}})
    with pytest.raises(BenchError, match="resemble no other"):
        data_dedup.equal(made, {US: {"dropped": [*answer["dropped"], *lone(made)]}})


def lone(made: Path) -> list[int]:
    """The first document that has no copy."""
    pairs = json.loads((made / "pairs.json").read_text())
    planted = {number for each in pairs.values() for pair in each for number in pair}
    return [next(number for number in range(2000) if number not in planted)]


def test_peers_are_fed_the_tokens_of_our_tables(folder: Path) -> None:
    training.make(folder, 8)
    rows = json.loads((folder / "rows.json").read_text())
    for side, count in (("train", 8), ("validation", training.VALIDATION_ROWS)):
        table = TokenTable.open(folder / f"{side}.tokens.arrow")
        assert len(rows[side]) == len(table) == count
        for number, row in enumerate(rows[side]):
            ids, mask = table.input_ids(number), table.loss_mask(number)
            assert row["input_ids"] == ids.tolist()
            assert [label != training.IGNORED for label in row["labels"]] == mask.tolist()


def test_trainings_that_did_not_do_the_same_give_no_ratio(folder: Path) -> None:
    rows = {"train": [{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}] * 16}
    (folder / "rows.json").write_text(json.dumps({**rows, "batch_rows": 8}))
    same = {"updates": 2, "validation_loss": 1.0}
    us = {**same, "validation_loss_before": 2.0}
    told = training.equal(folder, {US: us, "trl_tuned": same})
    assert (told["updates"], told["tokens"], told["supervised_tokens"]) == (2, 48, 32)
    with pytest.raises(BenchError, match="took 3 updates, not 2"):
        training.equal(folder, {US: us, "trl_tuned": {**same, "updates": 3}})
    with pytest.raises(BenchError, match="validation loss"):
        training.equal(folder, {US: us, "trl_tuned": {**same, "validation_loss": 0.9}})


def test_answers_that_are_not_the_same_work_give_no_ratio(folder: Path) -> None:
    (folder / "prompts.json").write_text(json.dumps({"input_ids": [[1, 2], [3]] * 4}))
    answers = [[5, 6, 7, 8, 9]] * 8
    us = {"token_ids": answers}
    told = generate.equal(folder, {US: us, "peer": {"token_ids": [*answers[:7], [5, 6, 7, 8, 0]]}})
    assert (told["prompt_tokens"], told["begin_alike"]["peer"]) == (12, 1.0)
    with pytest.raises(BenchError, match="7 answers to 8 prompts"):
        generate.equal(folder, {US: us, "peer": {"token_ids": answers[:7]}})
    with pytest.raises(BenchError, match="begins only 50%"):
        generate.equal(folder, {US: us, "peer": {"token_ids": [*answers[:4], *[[1, 6, 7, 8, 9]] * 4]}})
    with pytest.raises(BenchError, match="said 48 tokens, and we 40"):
        generate.equal(folder, {US: us, "peer": {"token_ids": [[*each, 1] for each in answers]}})


def test_judges_that_rank_worse_or_read_all_anew_give_no_ratio(folder: Path) -> None:
    ranked = [number / 40 for number in range(40)]
    (folder / "judge.json").write_text(json.dumps({"shares": ranked}))
    us = {"scores": ranked, "prompt_tokens": 100, "cached_tokens": 80}
    told = judge.equal(folder, {US: us, "peer": {"scores": [*ranked[::-1][:38], None, None]}})
    assert (told["cached"], told["scored"]) == (0.8, {US: 40, "peer": 38})
    assert told["spearman_with_shares"] == {US: 1.0, "peer": -1.0}
    with pytest.raises(BenchError, match=r"peer 1\.0, ours -1\.0"):
        judge.equal(folder, {US: {**us, "scores": ranked[::-1]}, "peer": us})
    with pytest.raises(BenchError, match="peer scored 35 of 40 answers"):
        judge.equal(folder, {US: us, "peer": {"scores": [*ranked[:35], *[None] * 5]}})
    with pytest.raises(BenchError, match="20% of our prompt tokens were cached"):
        judge.equal(folder, {US: {**us, "cached_tokens": 20}})


def test_overhead_is_told_of_trainings_that_took_the_same_updates(folder: Path) -> None:
    (folder / "rows.json").write_text(json.dumps({"train": [{"input_ids": [1, 2, 3]}]}))
    answers = {US: {"losses": [2.0]}, "bare_loop": {"losses": [2.0]}}
    assert train_start.equal(folder, answers) == {"tokens": 3, "losses": [2.0]}
    for other in (US, "own_process"):
        with pytest.raises(BenchError, match="losses differ"):
            train_start.equal(folder, {**answers, other: {"losses": [2.5]}})
    runs = {
        name: [harness.Outcome(each, 1.0, {}, {}) for each in seconds]
        for name, seconds in (
            (US, (5.0, 9.0, 8.0)),
            ("bare_loop", (4.0, 4.0, 4.0)),
            ("own_process", (4.5, 5.0, 9.0)),
        )
    }
    made = harness.summary(train_start.BENCHMARK, {32: runs}, {})
    assert made["measured"]["ray_overhead_s"] == 4.0
    assert made["measured"]["stage_overhead_s"] == 1.0


def test_a_peer_with_another_version_is_told_beside_ours() -> None:
    runs = {
        US: [harness.Outcome(1.0, 1.0, {}, {"transformers": "5.19.0"})],
        "bare_loop": [harness.Outcome(1.0, 1.0, {}, {"transformers": "5.6.0"})],
        "own_process": [harness.Outcome(1.0, 1.0, {}, {"transformers": "5.19.0"})],
    }
    versions = harness.summary(train_start.BENCHMARK, {32: runs}, {})["versions"]
    assert versions == {"transformers": "5.19.0", "transformers of bare_loop": "5.6.0"}


def test_every_benchmark_has_a_script_for_each_contender() -> None:
    for module in (
        data_dedup,
        data_validate,
        generate,
        judge,
        train_full,
        train_lora,
        train_memory,
        train_start,
    ):
        benchmark = module.BENCHMARK
        for name in (US, *(peer.name for peer in benchmark.peers)):
            assert (harness.SCRIPTS / f"{benchmark.name}_{name}.py").is_file()
