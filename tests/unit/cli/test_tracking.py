from __future__ import annotations

import json
import logging
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.unit.eval.test_decide import arm, binary
from tunebook_cli import tracking
from tunebook_cli.runner import run
from tunebook_cli.tracking import parameters, tracked
from tunebook_eval.decide import decide
from tunebook_eval.evidence import EvalReport
from tunebook_eval.inputs import DecideInputs
from tunebook_run.record import RunRecord, StageRecord
from tunebook_run.settings import Settings
from tunebook_run.stages import Stage
from tunebook_run.store import Store
from tunebook_spec.errors import MissingExtraError, SettingsError
from tunebook_spec.evaluation import Gate

GATES = (Gate(metric="glossary.line_match", at_least=0.85),)
FIELDS = {
    "train": DecideInputs(name="tiny", problem="", gates=(), bounds={}),
    "evaluate": DecideInputs(name="tiny", problem="", gates=(), bounds={}),
    "decide": DecideInputs(name="tiny", problem="", gates=GATES, bounds={}),
}
STAGES = {name: Stage.of("tiny", name, fields) for name, fields in FIELDS.items()}
SPEC: dict[str, Any] = {
    "name": "tiny",
    "method": {"kind": "full", "learning_rate": 1e-3, "early_stopping": None},
    "data": {"checks": {"answer_schema": {"glossary": {"$defs": {}}}}, "sources": [{"kind": "file"}]},
}
RUNNING = RunRecord(
    scenario="tiny",
    number=3,
    profile="local",
    status="running",
    started_at=datetime.now(UTC),
    spec=SPEC,
    seed=0,
    git_commit="abc",
    versions={},
)
REPORT = EvalReport(
    scores=(arm("base", binary(10)), arm("tuned", binary(93))),
    groups={"glossary": {str(number): f"g{number}" for number in range(100)}},
    costs=(),
    flips=(),
    examples=(),
    warnings=(),
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "runs"), tmp_path / "cache")


def train(store: Store, *steps: int) -> None:
    """Leave what training has done up to a step; each counts twice, as one that validated does."""
    entries: list[dict[str, Any]] = [{"num_steps": 9, "parameters": 100}]
    for step in steps:
        entries.append({"step": step, "epoch": 0, "loss": 4.0 / step, "mfu": 0.4})
        entries.append({"step": step, "validation_loss": None if step == 1 else 5.0 / step})
    entries.append({"step": 1, "is_best": True})
    content = "".join(json.dumps(entry) + "\n" for entry in entries)
    store.write(f"{STAGES['train'].key}/metrics.jsonl", content.encode())


def conclude(store: Store) -> RunRecord:
    """Leave a report and its verdict."""
    store.write(f"{STAGES['evaluate'].key}/report.json", REPORT.model_dump_json().encode())
    store.write(f"{STAGES['decide'].key}/report.html", b"<p>pass</p>")
    done = [
        StageRecord(name=name, key=stage.key, digest=stage.digest, skipped=False, seconds=1)
        for name, stage in STAGES.items()
    ]
    verdict = decide(REPORT, GATES, {})
    changes = {"stages": tuple(done), "verdict": verdict.lines, "status": verdict.outcome}
    return RUNNING.model_copy(update={**changes, "finished_at": datetime.now(UTC)})


def test_a_run_is_shown_as_it_goes_with_its_spec_its_verdict_and_its_report(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlruns").as_uri()
    follower = tracking.Follower(uri, store, STAGES)
    follower.show(RUNNING)
    client = mlflow.MlflowClient(uri)
    (experiment,) = client.search_experiments(filter_string="name = 'tiny'")

    def shown() -> Any:
        (only,) = client.search_runs([experiment.experiment_id])
        return only

    assert shown().info.status == "RUNNING"
    train(store, 1, 2)
    follower.show(RUNNING)
    assert shown().data.metrics == {
        "train.loss": 2.0,
        "train.mfu": 0.4,
        "train.epoch": 0,
        "train.validation_loss": 2.5,
    }
    train(store, 1, 2, 3, 4)
    follower.show(conclude(store))
    follower.say_what_is_missing()
    ended = shown()
    losses = client.get_metric_history(ended.info.run_id, "train.loss")
    assert [(each.step, each.value) for each in losses] == [(1, 4.0), (2, 2.0), (3, 4 / 3), (4, 1.0)]
    assert (ended.info.status, ended.info.run_name) == ("FINISHED", "tiny/3")
    assert ended.data.params["method.learning_rate"] == "0.001"
    assert ended.data.metrics["base.glossary.line_match"] == 0.1
    assert ended.data.metrics["tuned.glossary.line_match"] == 0.93
    assert ended.data.metrics["gate.1.value"] == 0.93
    assert ended.data.metrics["gate.1.threshold"] == 0.85
    assert ended.data.tags["tunebook.status"] == "pass"
    assert ended.data.tags["tunebook.verdict.02"] == "verdict: pass (1 pass, 0 fail, 0 inconclusive)"
    assert [each.path for each in client.list_artifacts(ended.info.run_id)] == ["report.html"]
    assert not caplog.messages


def test_a_server_that_is_away_is_said_once_and_in_the_end(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("mlflow")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracking, "FOLLOW_S", 0.01)
    caplog.set_level(logging.WARNING)
    looks = 0

    def record() -> RunRecord:
        nonlocal looks
        looks += 1
        return RUNNING

    with tracked(uri, store, STAGES, record):
        while looks < 3:
            pass
    first, last = caplog.messages
    assert first.startswith(f"MLflow at {uri} does not take this run, which goes on all the same: ")
    assert last.startswith(f"MLflow at {uri} has not got all of this run: ")


def test_where_no_server_is_set_nothing_is_looked_at(store: Store) -> None:
    with tracked(None, store, STAGES, lambda: pytest.fail("it looked")):
        pass


def test_parameters_are_the_spec_laid_flat() -> None:
    assert parameters(SPEC) == {
        "name": "tiny",
        "method.kind": "full",
        "method.learning_rate": "0.001",
        "data.checks.answer_schema.glossary": '{"$defs": {}}',
        "data.sources": '[{"kind": "file"}]',
    }


def test_without_mlflow_a_server_that_is_set_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    settings = Settings(mlflow_tracking_uri="http://127.0.0.1:5000", storage_url=str(tmp_path / "runs"))
    with pytest.raises(MissingExtraError, match=r"pip install 'tunebook\[mlflow\]'"):
        run(None, settings)  # type: ignore[arg-type]
    assert not (tmp_path / "runs").exists()


def test_a_server_with_a_password_in_its_uri_is_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TUNEBOOK_MLFLOW_TRACKING_URI", "http://me:secret@host:5000")
    with pytest.raises(SettingsError, match="MLFLOW_TRACKING_PASSWORD") as error:
        Settings.read()
    assert "secret" not in str(error.value)
