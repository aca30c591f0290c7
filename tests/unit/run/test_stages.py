from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from pydantic import BaseModel

from tunebook_run.clean import clean, plan_clean
from tunebook_run.record import RunRecord, ServedRecord, StageRecord, claim_number, find_run, save
from tunebook_run.stages import SCRATCH, Stage, commit, find, writing
from tunebook_run.store import Store
from tunebook_spec.errors import InputError, StoreError


class Fields(BaseModel):
    rate: float = 1.0


def stage(**changes: object) -> Stage:
    return Stage.of("medical", "train", **{"fields": Fields(), **changes})  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "runs"), tmp_path / "cache")


def make(store: Store, made: Stage, content: str = "weights") -> None:
    with writing(store, made) as folder:
        (folder / "model.bin").write_text(content)
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "step-1").write_text("scratch")
        commit(store, made, {"steps": 3}, 1.23)


def test_a_stage_that_a_lost_host_held_in_s3_is_taken_when_its_hold_runs_out(
    s3_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, made = Store(s3_url, tmp_path / "cache"), stage()
    store.filesystem.create_dir("bucket")
    store.write(f"{made.key}.lease", json.dumps({"owner": "lost:1", "until": time.time() + 2}).encode())
    with caplog.at_level("INFO"):
        make(store, made)
    assert find(store, made) is not None
    assert f"{made.key} is held by lost:1; waiting 61 s at most" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        {"fields": Fields(rate=2.0)},
        {"parents": {"prepare": "1"}},
        {"contents": {"rows.jsonl": "2"}},
        {"libraries": ("pydantic",)},
        {"format": 2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_dependency_moves_the_digest(change: dict[str, object]) -> None:
    assert stage().digest == stage().digest
    assert stage(**change).digest != stage().digest


def test_a_stage_is_done_only_once_its_artifact_is_written(store: Store) -> None:
    made = stage()
    with writing(store, made) as folder:
        (folder / "model.bin").write_text("half")
    assert find(store, made) is None
    make(store, made)
    artifact = find(store, made)
    assert artifact is not None
    assert artifact.result == {"steps": 3}
    assert list(artifact.files) == ["model.bin"]


def test_a_second_attempt_finds_what_the_first_left(store: Store) -> None:
    with writing(store, stage()) as folder:
        (folder / "answers.jsonl").write_text("one\n")
    with writing(store, stage()) as folder:
        assert (folder / "answers.jsonl").read_text() == "one\n"


def test_what_a_stage_goes_on_from_stays_until_it_is_done(store: Store) -> None:
    """A kill between the last step and the artifact costs no training."""
    for name in ("checkpoints/checkpoint_000005/position.json", "ray_train/state.json"):
        store.write(f"{stage().key}/{name}", b"{}")
    with writing(store, stage()) as folder:
        if store.local_root is None:
            assert not any(folder.iterdir()), "who only starts workers needs none of it"
        (folder / "model.bin").write_text("whole")
        assert store.exists(f"{stage().key}/checkpoints/checkpoint_000005/position.json")
        artifact = commit(store, stage(), {}, 1.0)
    assert list(artifact.files) == ["model.bin"]
    assert {key.rpartition("/")[2] for key in store.list(stage().key)} >= {"artifact.json", "model.bin"}
    assert not any(store.exists(f"{stage().key}/{name}") for name in SCRATCH)
    assert not any("checkpoint" in key or "ray_train" in key for key in store.list_files(stage().key))


def test_a_damaged_artifact_is_named(store: Store) -> None:
    store.write(f"{stage().key}/artifact.json", b"{")
    with pytest.raises(StoreError, match="is damaged; delete that folder"):
        find(store, stage())


SERVED = ServedRecord(model="medical@1", who="medical@1 at host")


def record(store: Store, *stages: Stage, served: ServedRecord | None = None) -> RunRecord:
    made = RunRecord.model_validate(
        {
            "scenario": "medical",
            "number": claim_number(store, "medical"),
            "profile": None,
            "status": "pass",
            "started_at": "2026-01-01T00:00:00Z",
            "finished_at": "2026-01-01T00:01:00Z",
            "spec": {},
            "seed": 0,
            "git_commit": None,
            "versions": {},
            "served": served,
            "stages": [
                StageRecord(name=s.name, key=s.key, digest=s.digest, skipped=False, seconds=0) for s in stages
            ],
        }
    )
    save(store, made)
    return made


def test_runs_are_numbered_and_found_by_name(store: Store) -> None:
    first, second = record(store), record(store)
    assert (first.number, second.number) == (1, 2)
    assert find_run(store, "medical").number == find_run(store, "medical@latest").number == 2
    assert find_run(store, "medical@1").number == 1
    assert store.local_root is not None
    latest = store.local_root / "medical" / "latest" / "run.json"
    assert json.loads(latest.read_text())["number"] == 2


def test_an_unknown_run_lists_those_there_are(store: Store) -> None:
    with pytest.raises(InputError, match="no run of 'medical'"):
        find_run(store, "medical")
    record(store)
    with pytest.raises(InputError, match="no run 'medical@7'; medical has: latest, 1"):
        find_run(store, "medical@7")


def test_clean_keeps_what_the_newest_runs_need(store: Store) -> None:
    old, shared, new = stage(format=1), stage(format=2), stage(format=3)
    for each in (old, shared, new):
        make(store, each)
    record(store, old, shared)
    record(store, shared, new)
    removals = plan_clean(store, keep=1)
    assert {removal.key for removal in removals} == {old.key, "medical/1"}
    assert find(store, old) is not None
    clean(store, removals)
    assert find(store, old) is None
    assert find(store, shared) is not None
    assert find(store, new) is not None
    assert plan_clean(store, keep=1) == []


def test_a_run_that_evaluated_what_is_served_costs_no_model_its_place(store: Store) -> None:
    old, new, answers = stage(format=1), stage(format=2), stage(format=3)
    for each in (old, new, answers):
        make(store, each)
    record(store, old)
    record(store, old, served=SERVED)
    record(store, new)
    record(store, new, answers, served=SERVED)
    record(store, new, answers, served=SERVED)
    assert {removal.key for removal in plan_clean(store, keep=1)} == {old.key, "medical/1", "medical/2"}
    assert plan_clean(store, keep=2) == []
    everything = {removal.key for removal in plan_clean(store, keep=0)}
    assert everything == {old.key, new.key, answers.key, *(f"medical/{number}" for number in range(1, 6))}


def test_what_a_run_has_made_that_was_ended_before_it_began_stays(store: Store) -> None:
    make(store, stage())
    record(store, stage())
    claim_number(store, "medical")
    unfinished = stage(format=2)
    with writing(store, unfinished) as folder:
        (folder / "part.bin").write_text("half")
    assert plan_clean(store, keep=2) == []
    assert {removal.key for removal in plan_clean(store, keep=1)} == {stage().key, "medical/1"}


def test_the_latest_run_that_has_a_stage_is_found_past_those_that_have_none(store: Store) -> None:
    make(store, stage())
    record(store, stage())
    record(store, served=SERVED)
    claim_number(store, "medical")
    assert find_run(store, "medical", having="train").number == 1
    with pytest.raises(InputError, match="no run of 'medical' has finished stage 'merge'; run its spec"):
        find_run(store, "medical", having="merge")
    with pytest.raises(InputError, match="run medical@3 was ended before it began; delete medical/3"):
        find_run(store, "medical")
