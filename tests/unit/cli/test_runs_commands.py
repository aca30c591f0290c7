from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.cli.conftest import EVALUATED
from tunebook_cli.main import main
from tunebook_run.record import find_run, save
from tunebook_run.store import Store

SPEC = {
    "version": 1,
    "name": "medical",
    "base_model": {"kind": "folder", "path": "a"},
    "data": {"sources": [{"kind": "file", "path": "a.jsonl", "task": "t"}]},
    "method": {"kind": "full"},
    "evaluation": {
        "sets": {"glossary": {"task": "t", "metrics": ["line_match"]}},
        "gates": [{"metric": "glossary.line_match", "at_least": 0.5}],
    },
}


@pytest.fixture
def two_runs(store: Store) -> Store:
    """The second has measured nothing."""
    for name in ("medical@1", "medical@2"):
        record = find_run(store, name)
        changes = {"spec": SPEC, "seed": 7, "git_commit": "0123456789abcdef", "profile": "local"}
        save(store, record.model_copy(update=changes))
    return store


def test_runs_are_listed_with_verdict_and_headline(
    two_runs: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs"]) == 0
    head, _, first, second = capfd.readouterr().out.splitlines()
    assert head.split() == [
        *("run", "started", "(UTC)", "took", "verdict", "headline", "metric", "profile", "seed", "commit")
    ]
    assert first.split()[0] == "medical@1"
    assert first.split()[3:] == [
        *("-", "pass", "glossary.line_match", "0.900", "±", "0.043", "local", "7", "0123456789")
    ]
    assert second.split()[3:] == ["-", "pass", "-", "local", "7", "0123456789"]


def test_a_report_that_is_gone_or_damaged_is_told_in_its_line(
    two_runs: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    two_runs.write(f"{EVALUATED}/report.json", b"{}")
    assert main(["runs", "medical"]) == 0
    assert f"{EVALUATED}/report.json is damaged" in capfd.readouterr().out
    two_runs.delete(f"{EVALUATED}/report.json")
    assert main(["runs"]) == 0
    assert " cleaned away " in capfd.readouterr().out


def test_no_run_and_a_damaged_record_are_told(two_runs: Store, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "tickets"]) == 2
    assert "no run of 'tickets' under" in capfd.readouterr().err
    record = json.loads(two_runs.read("medical/2/run.json"))
    two_runs.write("medical/2/run.json", json.dumps({**record, "seed": "x"}).encode())
    assert main(["runs"]) == 1
    assert "medical/2/run.json in" in (said := capfd.readouterr().err)
    assert "is no record of a run (seed: " in said


def test_a_run_that_was_ended_before_it_began_is_told(
    two_runs: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    two_runs.delete("medical/2/run.json")
    assert main(["verify", "medical@2"]) == 2
    assert "run medical@2 was ended before it began" in capfd.readouterr().err


def test_a_run_without_stages_or_measures_cannot_be_verified_or_compared(
    two_runs: Store, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "medical@2"]) == 2
    assert "run medical@2 has no finished stage, so there is nothing" in capfd.readouterr().err
    assert main(["compare", "medical@1", "medical@2"]) == 2
    assert "run medical/1 has no finished stage 'prepare'" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({}, "run.json: seed: is 7, and 0 in its spec"),
        ({}, "run.json: says pass, and lists no stage that decided"),
        ({"status": "failed", "verdict": ("verdict: pass",)}, "run.json: says failed, and has the verdict"),
        (
            {"spec": {**SPEC, "name": "tickets"}},
            "run.json: scenario: is 'medical', and 'tickets' in its spec",
        ),
    ],
    ids=["seed", "no decision", "no verdict", "scenario"],
)
def test_a_record_that_contradicts_itself_does_not_agree(
    two_runs: Store, change: dict[str, object], finding: str, capfd: pytest.CaptureFixture[str]
) -> None:
    save(two_runs, find_run(two_runs, "medical@1").model_copy(update=change))
    assert main(["verify", "medical@1"]) == 1
    assert f"does not agree  {finding}" in capfd.readouterr().out
