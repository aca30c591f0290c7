from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from tunebook_run.record import RunRecord, StageRecord, claim_number, save
from tunebook_run.stages import ARTIFACT, Stage, commit, writing
from tunebook_run.store import Store
from tunebook_run.verify import Verification, compare_inputs, verify_stages


class Fields(BaseModel):
    rate: float = 1.0
    sets: dict[str, int] = {"a": 1, "b": 2}
    gates: list[float] = [0.5, 0.6]


FIELDS = Fields().model_dump()


PREPARE = Stage.of("medical", "prepare", Fields(), contents={"file:rows.jsonl": "1"}, libraries=("pydantic",))
TRAIN = Stage.of("medical", "train", Fields(), parents={"prepare": PREPARE.digest})
STAGES = {"prepare": PREPARE, "train": TRAIN}
OTHER = {"prepare": "0"}
COPIES = {"card.html": "prepare"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "runs"), tmp_path / "cache")


@pytest.fixture
def record(store: Store) -> RunRecord:
    for stage, files in ((PREPARE, ("card.html", "rows/train.jsonl")), (TRAIN, ("weights.bin",))):
        with writing(store, stage) as folder:
            for name in files:
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_text(f"content of {name}")
            commit(store, stage, {}, 1.0)
    made = RunRecord.model_validate(
        {
            "scenario": "medical",
            "number": claim_number(store, "medical"),
            "profile": None,
            "status": "pass",
            "started_at": "2026-01-01T00:00:00Z",
            "spec": {},
            "seed": 0,
            "git_commit": None,
            "versions": {},
            "stages": [
                StageRecord(name=name, key=each.key, digest=each.digest, skipped=False, seconds=0)
                for name, each in STAGES.items()
            ],
        }
    )
    save(store, made)
    store.write("medical/1/card.html", store.read(f"{PREPARE.key}/card.html"))
    return made


def flip(store: Store, key: str) -> None:
    content = bytearray(store.read(key))
    content[len(content) // 2] ^= 1
    store.write(key, bytes(content))


def edit(store: Store, key: str, **changes: object) -> None:
    store.write(key, json.dumps({**json.loads(store.read(key)), **changes}).encode())


def read(_: str, fields: Any) -> Any:
    """As a version does that has a field more."""
    return {"new": 0, **fields}


def test_what_nobody_touched_agrees(store: Store, record: RunRecord) -> None:
    found = verify_stages(store, record, COPIES)
    compare_inputs(found, STAGES, lambda _, fields: fields)
    assert (found.num_files, found.disagreements, found.notes) == (4, [], [])
    assert found.agrees("train")


@pytest.mark.parametrize(
    ("damage", "place", "message"),
    [
        (lambda s: flip(s, f"{TRAIN.key}/weights.bin"), "train: weights.bin", "was changed: its sha256 was "),
        (lambda s: flip(s, f"{PREPARE.key}/rows/train.jsonl"), "prepare: rows/train.jsonl", "was changed"),
        (lambda s: flip(s, "medical/1/card.html"), "medical/1/card.html", "was changed"),
        (lambda s: s.delete(f"{TRAIN.key}/weights.bin"), "train: weights.bin", "is gone"),
        (lambda s: s.delete(TRAIN.key), "train", "is gone; run the spec again"),
        (lambda s: s.write(f"{TRAIN.key}/more.bin", b"1"), "train: more.bin", "the stage left no such file"),
        (lambda s: s.write(f"{TRAIN.key}/{ARTIFACT}", b"{"), "train: artifact.json", "is damaged"),
        (
            lambda s: edit(s, f"{TRAIN.key}/{ARTIFACT}", inputs={**TRAIN.inputs, "fields": {"rate": 2}}),
            "train: artifact.json",
            f"itself it says {TRAIN.digest[:12]}",
        ),
        (
            lambda s: edit(
                s, f"{TRAIN.key}/{ARTIFACT}", inputs={**TRAIN.inputs, "parents": {"prepare": "0"}}
            ),
            "train: artifact.json",
            "it was made from another prepare (0) than the run's",
        ),
    ],
    ids=["weights", "row", "page", "gone", "stage", "more", "artifact", "inputs", "parent"],
)
def test_each_damage_is_found_and_named(
    store: Store, record: RunRecord, damage: Callable[[Store], None], place: str, message: str
) -> None:
    damage(store)
    found = verify_stages(store, record, COPIES).disagreements
    assert {each.where for each in found} == {place}
    assert any(message in each.message for each in found), found


def test_files_beside_the_stage_that_it_would_not_commit_are_no_matter(
    store: Store, record: RunRecord
) -> None:
    store.write(f"{TRAIN.key}/checkpoints/step-1/state.pt", b"1")
    store.write(f"{TRAIN.key}/.part", b"1")
    assert verify_stages(store, record, COPIES).disagreements == []


def inputs_of(
    store: Store, record: RunRecord, reading: Callable[[str, Any], Any] = read, **changes: object
) -> Verification:
    changes.setdefault("fields", {**FIELDS, "new": 0})
    now = Stage.model_validate({**PREPARE.model_dump(), "inputs": {**PREPARE.inputs, **changes}})
    found = verify_stages(store, record, COPIES)
    compare_inputs(
        found,
        {"prepare": now, "train": TRAIN},
        lambda name, fields: reading(name, fields) if name == "prepare" else fields,
    )
    return found


def test_a_source_whose_content_is_another_is_named(store: Store, record: RunRecord) -> None:
    found = inputs_of(store, record, contents={"file:rows.jsonl": "2"})
    assert list(map(str, found.disagreements)) == ["prepare: contents.file:rows.jsonl: was 1 and is 2"]
    assert not found.agrees("prepare")


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"sets": {"a": 1}}, "sets.b: was 2 and is -"),
        ({"sets": {"a": 1, "b": 2, "c": 3}}, "sets.c: was - and is 3"),
        ({"gates": [0.5]}, "gates.1: was 0.6 and is -"),
        ({"new": 1}, "new: was 0 and is 1"),
    ],
    ids=["less", "more", "shorter", "a field that it had not"],
)
def test_what_only_the_run_or_only_the_stage_says_does_not_agree(
    store: Store, record: RunRecord, fields: dict[str, object], path: str
) -> None:
    found = inputs_of(store, record, fields={**FIELDS, "new": 0, **fields})
    assert list(map(str, found.disagreements)) == [f"prepare: fields.{path}"]


@pytest.mark.parametrize(
    "change",
    [{"format": 2}, {"libraries": {"pydantic": "9"}}],
    ids=["format", "library"],
)
def test_other_versions_are_told_and_agree(
    store: Store, record: RunRecord, change: dict[str, object]
) -> None:
    found = inputs_of(store, record, **change)
    assert len(found.notes) == 1
    assert found.disagreements == []


def test_fields_of_another_version_are_told_and_agree(store: Store, record: RunRecord) -> None:
    assert inputs_of(store, record).notes == []
    found = inputs_of(store, record, reading=lambda *_: None)
    told = [
        "prepare: its fields are not those of this version of Tunebook",
        "prepare: fields.new: was - and is 0",
    ]
    assert (list(map(str, found.notes)), found.disagreements) == (told, [])
