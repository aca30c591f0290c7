from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.plan.conftest import Measure
from tunebook_cli.main import main
from tunebook_plan.scenarios import scenario_row
from tunebook_run.record import RunRecord
from tunebook_run.store import Store

SPEC = """\
version: 1
name: good
base_model: {kind: folder, path: absent}
data: {sources: [{kind: file, path: rows.jsonl, task: colour}]}
method: {kind: full}
evaluation:
  sets: {colour: {task: colour, metrics: [exact_match]}}
  gates: [{metric: colour.exact_match, at_least: 0.5}]
"""


def test_a_row_tells_a_run_in_short(store: Store, measure_run: Measure) -> None:
    row = scenario_row(measure_run("n % 10 < 9"), store)
    assert (row.scenario, row.verdict, row.metric) == ("colours", "pass", "colour.exact_match")
    assert {each.arm: each.mean for each in row.scores} == {
        "base": 0,
        "few_shot": 0.6,
        "tuned": 0.9,
        "copy": 0.2,
    }
    assert row.minutes == pytest.approx(7, abs=0.01)
    assert row.drop is not None
    assert row.drop.mean == pytest.approx(0.1)
    assert row.drop.high is not None
    assert row.drop.high > 0.1


def test_a_run_that_failed_has_a_row_without_numbers(store: Store, measure_run: Measure) -> None:
    done = measure_run("n % 10 < 9").model_dump()
    row = scenario_row(RunRecord.model_validate({**done, "status": "failed", "stages": ()}), store)
    assert (row.verdict, row.scores, row.drop) == ("failed", (), None)


def test_what_cannot_be_run_stops_no_other_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "specs").mkdir()
    for name, text in (("bad", "version: 2"), ("good", SPEC)):
        (tmp_path / "specs" / f"{name}.yaml").write_text(text)
    assert main(["scenarios"]) == 2
    out, err = capfd.readouterr()
    lines = [line.split() for line in out.splitlines() if line.strip()]
    assert lines[0] == "scenario verdict metric base few-shot best rule tuned general drop minutes".split()
    assert lines[2][:3] == ["bad", "bad", "spec"]
    assert lines[3][:3] == ["good", "not", "begun"]
    assert "specs/bad.yaml: " in err
    assert "absent" in err, "the other was tried"


def test_a_folder_without_specs_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "specs").mkdir()
    assert main(["scenarios"]) == 2
    assert "specs: holds no spec" in capfd.readouterr().err
