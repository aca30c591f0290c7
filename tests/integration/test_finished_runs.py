"""What can be asked of a run that is done: is it still what it was, and how does it differ from another?"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.project import Project
from tunebook_cli.main import main

Command = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def copy(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("runs") / "copy"
    shutil.copytree(finished.folder, folder, symlinks=True)
    return Project(folder)


@pytest.fixture
def command(copy: Project, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """In this process, since each of its own takes seconds to begin."""
    monkeypatch.chdir(copy.folder)
    monkeypatch.setenv("TUNEBOOK_CACHE_DIR", str(copy.folder / "cache"))

    def run(*arguments: str) -> tuple[int, str]:
        status = main(list(arguments))
        return status, "".join(capfd.readouterr())

    return run


def place(project: Project, name: str) -> Path:
    """A file of the project, or `STAGE: FILE`."""
    stage, _, file = name.rpartition(": ")
    keys = {each["name"]: each["key"] for each in project.record("1")["stages"]}  # type: ignore[attr-defined]
    return project.folder / "runs" / keys[stage] / file if stage else project.folder / file


def test_a_run_that_nobody_touched_agrees_from_its_sources_to_its_verdict(command: Command) -> None:
    status, output = command("verify", "tiny@1")
    assert status == 0, output
    assert output.startswith("tiny@1: 47 files of 11 stages, their inputs and the verdict: all agrees")


@pytest.mark.parametrize(
    ("name", "finding"),
    [
        ("merge: model/model.safetensors", "merge: model/model.safetensors: was changed: its sha256 was "),
        ("prepare: train.jsonl", "prepare: train.jsonl: was changed"),
        ("evaluate: report.json", "evaluate: report.json: was changed"),
        ("runs/tiny/1/report.html", "tiny/1/report.html: was changed"),
        ("runs/tiny/1/report.json", "tiny/1/report.json: was changed"),
        ("my rows.jsonl", "prepare: contents.file:../my rows.jsonl: was "),
        ("own.jsonl", "prepare: contents.suite:../own.jsonl: was "),
        ("models/tiny llama/model.safetensors", "replay: contents.base_model: was "),
    ],
    ids=["weights", "row", "report", "page", "evidence", "source", "suite", "base model"],
)
def test_a_byte_that_flips_is_found_and_named(
    copy: Project, command: Command, name: str, finding: str
) -> None:
    path = place(copy, name)
    before = path.read_bytes()
    after = bytearray(before)
    after[-20] ^= 1
    path.write_bytes(after)
    try:
        status, output = command("verify", "tiny@1")
    finally:
        path.write_bytes(before)
    assert status == 1, output
    assert f"does not agree  {finding}" in output


def test_rows_are_retrieved_by_meaning_and_answers_are_scored_by_it(copy: Project) -> None:
    changes = (
        "evaluation.arms=[base, few_shot, retrieval, tuned]",
        "evaluation.sets.colour.metrics=[exact_match, embedding_similarity]",
    )
    status, output = copy.run("run", "tiny", *(part for each in changes for part in ("--set", each)))
    assert status in (0, 3, 4), output
    assert output.count(" done in ") == 3, "only the new arm answers; it is scored and judged"
    report = json.loads((copy.folder / "runs" / "tiny" / "latest" / "report.json").read_text())
    scored = {each["arm"]: each for each in report["scores"] if each["metric"] == "embedding_similarity"}
    assert {"base", "few_shot", "retrieval", "tuned"} <= set(scored)
    values = scored["tuned"]["scores"].values()
    assert 0 <= min(values) <= max(values) <= 1 + 1e-9
    assert len(set(values)) > 1
    task = [each for each in report["examples"] if each["set"] == "colour"]
    assert all(len(each["retrieved"]) == 3 for each in task)
    assert len({tuple(each["retrieved"]) for each in task}) > 1, "each question has found its own"


def test_a_gate_that_only_the_record_has_is_found(copy: Project, command: Command) -> None:
    record = copy.folder / "runs" / "tiny" / "1" / "run.json"
    told = record.read_text()
    said = json.loads(told)
    gates = said["spec"]["evaluation"]["gates"]
    gates.append(gates[0])
    record.write_text(json.dumps(said))
    try:
        status, output = command("verify", "tiny@1")
    finally:
        record.write_text(told)
    assert status == 1, output
    assert f"does not agree  decide: fields.gates.{len(gates) - 1}: was - and is " in output


def test_a_verdict_that_does_not_follow_from_the_report_is_found(copy: Project, command: Command) -> None:
    artifact = place(copy, "decide: artifact.json")
    before = artifact.read_text()
    decided = json.loads(before)
    decided["result"] |= {"verdict": "fail", "lines": ["verdict: fail"]}
    artifact.write_text(json.dumps(decided))
    record = copy.folder / "runs" / "tiny" / "1" / "run.json"
    told = record.read_text()
    record.write_text(json.dumps({**json.loads(told), "seed": 4, "spec": {}}))
    try:
        status, output = command("verify", "tiny@1")
    finally:
        artifact.write_text(before)
        record.write_text(told)
    assert status == 1
    assert "does not agree  decide: artifact.json: its report gives 'verdict: pass" in output
    assert "does not agree  run.json: says pass, and the stage that decided says fail" in output
    assert "does not agree  run.json: spec: is no spec of this version of Tunebook (version: " in output


def test_a_run_held_against_itself_differs_in_nothing(command: Command) -> None:
    status, output = command("compare", "tiny@1", "tiny@1")
    assert status == 0, output
    for part in ("spec", "data", "versions"):
        assert f" {part}: the same" in output
    assert "+0.000" in output
    assert "not paired" not in output


def test_a_run_whose_answers_were_cleaned_away_cannot_be_compared(copy: Project, command: Command) -> None:
    answers = place(copy, "answer-tuned: artifact.json")
    answers.rename(answers.with_name("gone"))
    try:
        status, output = command("compare", "tiny@1", "tiny@1")
    finally:
        answers.with_name("gone").rename(answers)
    assert status == 2
    assert "answer-tuned of run tiny@1 is cleaned away; run its spec again" in output


def test_a_metric_of_one_name_and_two_definitions_is_not_held_against_itself(
    copy: Project, command: Command
) -> None:
    strict = "evaluation.sets.colour.metrics.0={kind: exact_match, normalise: false}"
    status, output = copy.run("run", "tiny", "--profile", "local", "--set", strict)
    assert status in (0, 3, 4), output
    status, output = command("compare", "tiny@1", "tiny@latest")
    assert status == 0, output
    assert " colour.exact_match: defined differently: normalise (true, false); tiny@1 " in output
    assert "colour.judge " in output, "that is one thing in both"
    assert output.count("+0.000 ") == 3
