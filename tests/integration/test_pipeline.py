"""A tiny Llama goes through every stage by the command that a user types."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.project import Project

STAGES = ["replay", "prepare", "answer-baselines", "answer-base", "answer-few_shot"]
STAGES += ["train", "merge", "answer-tuned", "judge-critic", "evaluate", "decide"]


def statuses(output: str) -> dict[str, str]:
    """What the log says of each stage: done or skipped."""
    return dict(re.findall(r"^\S+ (\S+) +(done|skipped)", output, flags=re.MULTILINE))


def test_it_ends_in_a_verdict_with_a_report(finished: Project) -> None:
    output = (finished.folder / "first.log").read_text()
    assert statuses(output) == dict.fromkeys(STAGES, "done")
    (off,) = re.findall(r"answer-tuned +says what training said in 16 places, to (\S+) nats", output)
    assert float(off) < 0.05
    assert output.strip().splitlines()[-1].startswith("verdict: pass")
    record = finished.record("1")
    assert record["status"] == "pass"
    assert [stage["name"] for stage in record["stages"]] == STAGES  # type: ignore[union-attr,attr-defined]
    report = (finished.folder / "runs" / "tiny" / "1" / "report.html").read_text()
    assert "colour.exact_match" in report
    advisory = "advisory      colour.judge: no gate passes or fails by it; the judge is not calibrated"
    assert advisory in output
    assert re.search(r"colour\.judge +0\.700 .* 0\.700 ", output), "all arms, by what the script says"
    assert not re.search(r"(src|href)=.http", report)


def test_bad_rows_are_accounted_for(finished: Project) -> None:
    prepare = finished.stage("prepare")
    rejects = [json.loads(line) for line in (prepare / "rejects.jsonl").read_text().splitlines()]
    assert [(reject["source"], reject["line"]) for reject in rejects] == [
        ("../my rows.jsonl", 4),
        ("../my rows.jsonl", 8),
    ]


def test_no_artifact_names_this_machine(finished: Project) -> None:
    for path in (finished.folder / "runs").rglob("*.json*"):
        assert str(finished.folder) not in path.read_text(), path


def test_the_same_command_again_skips_every_stage_and_says_why(finished: Project) -> None:
    status, output = finished.run("run", "tiny", "--profile", "local")
    assert status == 0, output
    assert statuses(output) == dict.fromkeys(STAGES, "skipped")
    assert output.count("skipped: same inputs as") == len(STAGES)


def test_a_changed_threshold_reruns_only_decide_and_can_fail(finished: Project) -> None:
    gate = "evaluation.gates.0.at_least=0.999"
    status, output = finished.run("run", "tiny", "--profile", "local", "--set", gate)
    assert statuses(output) == {**dict.fromkeys(STAGES, "skipped"), "decide": "done"}
    assert status in (3, 4), output


def test_a_dry_run_makes_nothing(project: Project) -> None:
    status, output = project.run("run", "tiny", "--dry-run")
    assert status == 0, output
    assert len(re.findall(r"^\S+ +run tiny/stages/", output, flags=re.MULTILINE)) == len(STAGES)
    assert not (project.folder / "runs").exists()


def test_a_dry_run_ends_where_a_run_would(project: Project) -> None:
    status, output = project.run("run", "tiny", "--dry-run", "--until", "prepare")
    assert status == 0, output
    assert re.findall(r"^(\S+) +run tiny/stages/", output, flags=re.MULTILINE)[-1] == "prepare"
    status, output = project.run("run", "tiny", "--dry-run", "--until", "nothing")
    assert status == 2
    assert "--until nothing: no such stage; this spec has, in this order: replay, prepare" in output


def remove(project: Project, stages: str) -> None:
    """Delete the stages whose name begins so."""
    for stage in (project.folder / "runs" / "tiny" / "stages").iterdir():
        if re.match(stages, stage.name):
            shutil.rmtree(stage) if stage.is_dir() else stage.unlink()


def copy_of(finished: Project, folder: Path, *, without: str) -> Project:
    """A project that has made every stage but those whose name begins so."""
    shutil.copytree(finished.folder, folder, symlinks=True)
    project = Project(folder)
    remove(project, without)
    return project


ARMS = "evaluation.arms=[base, few_shot, tuned, {run: tiny@%s}, {model: parrot}]"
PARROT = "models.parrot={kind: scripted, script: [{pattern: '.*', answers: [blue]}]}"


def test_an_earlier_run_and_another_model_answer_beside_the_tuned_one(
    finished: Project, tmp_path: Path
) -> None:
    project = copy_of(finished, tmp_path / "copy", without="nothing")
    command = ("run", "tiny", "--profile", "local", "--set", PARROT, "--set")
    status, output = project.run(*command, ARMS % "1")
    assert status == 0, output
    assert {name for name, said in statuses(output).items() if said == "done"} == {
        *("answer-tiny@1", "answer-parrot", "judge-critic", "evaluate", "decide")
    }
    report = json.loads((project.stage("evaluate") / "report.json").read_text())
    scores = {(each["set"], each["metric"], each["arm"]): each["scores"] for each in report["scores"]}
    assert scores["colour", "exact_match", "tiny@1"] == scores["colour", "exact_match", "tuned"]
    assert scores["texts", "log_likelihood", "tiny@1"] == scores["texts", "log_likelihood", "tuned"]
    assert set(scores["colour", "exact_match", "parrot"].values()) == {0.0, 1.0}
    assert re.search(r"^ ?metric +base +few_shot +parrot +tiny@1 +tuned ", output, flags=re.MULTILINE)
    status, output = project.run(*command, ARMS % "9")
    assert status == 2
    assert "evaluation.arms.3.run: no run 'tiny@9'; tiny has: latest, 1" in output


@dataclass(frozen=True)
class Killed:
    project: Project
    interrupted: tuple[int, str]
    """Status and output of the run that Ctrl-C ended while the base model answered."""
    status: str
    """Of that run, by its record."""
    resumed: str
    """Output of the run that ended training, with test rows out of sight, and was killed later."""
    num_kept: int
    """Answers of the tuned model that were on the disk then."""
    last: tuple[int, str]
    """Of the run that finished."""
    damaged: str
    """Name of training's newest checkpoint, in which a byte was changed after the kill."""
    step_before: int
    """Of the checkpoint before it."""


def checkpoints(project: Project) -> list[Path]:
    """Those of training, oldest first."""
    stages = project.folder / "runs" / "tiny" / "stages"
    return sorted(stages.glob("train-*/checkpoints/checkpoint_*"))


@pytest.fixture(scope="module")
def killed(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """A project of which one run was interrupted and three were killed with SIGKILL, and then one finished.

    Training left a newest checkpoint that is damaged.
    """
    project = copy_of(finished, tmp_path_factory.mktemp("killed") / "copy", without="prepare")
    stages = project.folder / "runs" / "tiny" / "stages"
    command = ("run", "tiny", "--profile", "local")

    def seen(pattern: str) -> bool:
        return any(stages.glob(pattern))

    project.run_until(lambda: seen("prepare-*/*.jsonl"), *command)
    remove(project, "answer-base-|train|merge|answer-tuned")
    interrupted = interrupt_when(lambda: seen("answer-base-*.lock"), project, *command)
    status = project.record()["status"]
    hidden = project.folder / "hidden.jsonl"

    def trained_without_test_rows() -> bool:
        if not hidden.exists() and seen("train-*.lock"):
            (project.stage("prepare") / "test.jsonl").rename(hidden)
        return len(checkpoints(project)) == 2

    project.run_until(trained_without_test_rows, *command)
    before, newest = checkpoints(project)
    state = bytearray((newest / "state.pt").read_bytes())
    state[len(state) // 2] ^= 1
    (newest / "state.pt").write_bytes(state)
    step_before = json.loads((before / "position.json").read_text())["step"]

    def tuned_model_answers() -> bool:
        if hidden.exists() and seen("merge-*/artifact.json"):
            hidden.rename(project.stage("prepare") / "test.jsonl")
        return answers(project, "answer-tuned") > 0

    resumed = project.run_until(tuned_model_answers, *command)
    num_kept = answers(project, "answer-tuned")
    last = project.run(*command)
    return Killed(project, interrupted, str(status), resumed, num_kept, last, newest.name, step_before)


def interrupt_when(seen: Callable[[], bool], project: Project, *arguments: str) -> tuple[int, str]:
    """Exit status and output of a command to which Ctrl-C comes once a condition holds."""
    process = project.start(*arguments)
    while not seen():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


def answers(project: Project, stage: str) -> int:
    """Whole lines of a stage's answers so far."""
    files = (project.folder / "runs" / "tiny" / "stages").glob(f"{stage}-*/answers.jsonl")
    return sum(path.read_bytes().count(b"\n") for path in files)


def test_ctrl_c_exits_130_and_leaves_a_run_that_goes_on(killed: Killed) -> None:
    status, output = killed.interrupted
    assert status == 130, output
    assert "Traceback" not in output
    assert killed.status == "interrupted"


def test_test_rows_are_read_by_evaluation_alone(killed: Killed) -> None:
    ended = statuses(killed.resumed)
    assert (ended["train"], ended["merge"]) == ("done", "done"), killed.resumed


def test_kill_9_anywhere_and_the_same_command_finishes_the_run(killed: Killed, finished: Project) -> None:
    status, output = killed.last
    assert status == 0, output
    assert statuses(output)["train"] == "skipped"
    (resumed,) = re.findall(r"answer-tuned +done.* (\d+) of them by an earlier attempt", output)
    assert int(resumed) >= killed.num_kept > 0
    assert re.findall(r"goes on from step (\d+)", killed.resumed) == [str(killed.step_before)]
    assert re.findall(r"checkpoint \S*/(\S+) is damaged", killed.resumed) == [killed.damaged]
    for name in ("model.safetensors", "config.json"):
        ours = (killed.project.stage("merge") / "model" / name).read_bytes()
        assert ours == (finished.stage("merge") / "model" / name).read_bytes()


def test_a_merged_model_that_is_not_the_trained_one_is_asked_nothing(
    finished: Project, tmp_path: Path
) -> None:
    project = copy_of(finished, tmp_path / "copy", without="answer-tuned|evaluate|decide")
    weights = Path("model.safetensors")
    shutil.copy(
        project.folder / "models" / "tiny llama" / weights, project.stage("merge") / "model" / weights
    )
    status, output = project.run("run", "tiny", "--profile", "local")
    assert status == 1, output
    assert "stage answer-tuned: the served model is not the one that was trained: " in output
    assert not any(project.stage("answer-tuned").glob("answers.jsonl"))


def test_two_runs_at_once_leave_one_whole_result(finished: Project, tmp_path: Path) -> None:
    project = copy_of(finished, tmp_path / "copy", without="prepare")
    runs = [project.start("run", "tiny", "--profile", "local") for _ in range(2)]
    outputs = [process.communicate(timeout=400)[0] for process in runs]
    ended = sorted(process.returncode for process in runs)
    assert ended == [0, 1], outputs
    assert sum("is being written by another run" in output for output in outputs) == 1
    numbers = sorted(int(path.name) for path in (project.folder / "runs" / "tiny").glob("[0-9]*"))
    assert {project.record(str(number))["status"] for number in numbers[-2:]} == {"pass", "failed"}
