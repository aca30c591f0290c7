"""A run as MLflow shows it: its spec, training as it goes, and in the end what decided the verdict."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from tunebook_eval.verdict import GateVerdict
from tunebook_run.record import RunRecord
from tunebook_run.stages import Stage
from tunebook_run.store import Store
from tunebook_spec.errors import MissingExtraError
from tunebook_train.job import read_metrics

if TYPE_CHECKING:
    from tunebook_eval.evidence import EvalReport

logger = logging.getLogger(__name__)

FOLLOW_S = 5.0
"""Between two looks at what the run has left."""
ENVIRONMENT = {
    # One request has to fail soon: it is made again as long as the run lasts.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
MOST_METRICS, MOST_PARAMS, LONGEST = 1000, 100, 6000
"""Of one request, and of a parameter's text: limits of MLflow's protocol."""
NAME = re.compile(r"[\w .:/-]+")
"""What MLflow lets parameters and metrics be called."""


def check_installed(uri: str | None) -> None:
    """Say before a run that it could not be shown.

    Raises:
        MissingExtraError: a server is set, and MLflow is not installed.
    """
    if uri is not None and importlib.util.find_spec("mlflow") is None:
        message = "TUNEBOOK_MLFLOW_TRACKING_URI is set, and MLflow is not installed; "
        raise MissingExtraError(message + "`pip install 'tunebook[mlflow]'`")


@contextmanager
def tracked(
    uri: str | None, store: Store, stages: Mapping[str, Stage], record: Callable[[], RunRecord]
) -> Iterator[None]:
    """Show a run on an MLflow server while it lasts, and its end; a server that is away never stops it.

    Args:
        uri: of the server; none: nothing is shown.
        store: what the run leaves.
        stages: of the run, by name.
        record: the run's, as it is now.
    """
    if uri is None:
        yield
        return
    os.environ |= {name: value for name, value in ENVIRONMENT.items() if name not in os.environ}
    # It warns of every request that it makes again.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    stop, follower = threading.Event(), Follower(uri, store, stages)

    def follow() -> None:
        while not stop.wait(FOLLOW_S):
            follower.show(record())

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        follower.show(record())
        follower.say_what_is_missing()


@dataclass
class Follower:
    """Brings one run of MLflow up to what a run of ours has left; what could not be sent, is next time."""

    uri: str
    store: Store
    stages: Mapping[str, Stage]
    _client: Any = None
    _run_id: str | None = None
    _has_parameters: bool = False
    _last_step: int = -1
    """The newest whose metrics were sent."""
    _is_concluded: bool = False
    _has_failed: bool = False
    _error: str | None = None
    """Why the last attempt failed; none: it did not."""

    def show(self, record: RunRecord) -> None:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        try:
            self._client = self._client or MlflowClient(self.uri, self.uri)
            self._show(record)
            self._error = None
        except (MlflowException, OSError) as error:
            if not self._has_failed:
                message = "MLflow at %s does not take this run, which goes on all the same: %s"
                logger.warning(message, self.uri, _line(error))
            self._has_failed, self._error = True, _line(error)

    def say_what_is_missing(self) -> None:
        if self._error is not None:
            logger.warning("MLflow at %s has not got all of this run: %s", self.uri, self._error)

    def _show(self, record: RunRecord) -> None:
        self._run_id = self._run_id or self._begin(record)
        if not self._has_parameters:
            self._send(params=list(parameters(record.spec).items()))
            self._has_parameters = True
        train = self.stages.get("train")
        entries = read_metrics(self.store, train.key) if train else []
        fresh = [each for each in entries if each.get("step", -1) > self._last_step]
        self._send(metrics=[point for each in fresh for point in points(each)])
        self._last_step = max([each["step"] for each in fresh], default=self._last_step)
        if record.verdict and not self._is_concluded:
            self._conclude(record)
            self._is_concluded = True
        if record.finished_at is not None:
            ended = {"failed": "FAILED", "interrupted": "KILLED"}.get(record.status, "FINISHED")
            self._client.set_tag(self._run_id, "tunebook.status", record.status)
            self._client.set_terminated(self._run_id, ended, round(record.finished_at.timestamp() * 1000))

    def _begin(self, record: RunRecord) -> str:
        experiment = self._client.get_experiment_by_name(record.scenario)
        known = experiment.experiment_id if experiment else self._client.create_experiment(record.scenario)
        tags = {"tunebook.profile": record.profile or "", "tunebook.git_commit": record.git_commit or ""}
        started = round(record.started_at.timestamp() * 1000)
        run = self._client.create_run(known, start_time=started, tags=tags, run_name=record.key)
        return str(run.info.run_id)

    def _conclude(self, record: RunRecord) -> None:
        from tunebook_eval.decide import decide
        from tunebook_eval.evaluate import read_report
        from tunebook_eval.inputs import DecideInputs

        report = read_report(self.store.download(record.stage("evaluate").key))
        inputs = DecideInputs.model_validate(self.stages["decide"].inputs["fields"])
        verdict = decide(report, inputs.gates, inputs.bounds)
        self._send(metrics=[(name, value, 0) for name, value in numbers(report, verdict).items()])
        for number, line in enumerate(record.verdict, start=1):
            self._client.set_tag(self._run_id, f"tunebook.verdict.{number:02}", line)
        page = self.store.download(record.stage("decide").key) / "report.html"
        self._client.log_artifact(self._run_id, str(page))

    def _send(
        self, metrics: Sequence[tuple[str, float, int]] = (), params: Sequence[tuple[str, str]] = ()
    ) -> None:
        from mlflow.entities import Metric, Param

        now = round(time.time() * 1000)
        for start in range(0, len(metrics), MOST_METRICS):
            batch = [
                Metric(name, value, now, step) for name, value, step in metrics[start : start + MOST_METRICS]
            ]
            self._client.log_batch(self._run_id, metrics=batch)
        for start in range(0, len(params), MOST_PARAMS):
            some = [Param(name, value) for name, value in params[start : start + MOST_PARAMS]]
            self._client.log_batch(self._run_id, params=some)


def parameters(spec: Mapping[str, JsonValue], prefix: str = "") -> dict[str, str]:
    """A resolved spec, flat: `method.learning_rate`; lists as JSON, long texts cut."""
    flat: dict[str, str] = {}
    for name, value in spec.items():
        if isinstance(value, dict) and all(map(NAME.fullmatch, value)):
            flat |= parameters(value, f"{prefix}{name}.")
        elif value is not None:
            flat[prefix + name] = (value if isinstance(value, str) else json.dumps(value))[:LONGEST]
    return flat


def points(entry: Mapping[str, Any]) -> list[tuple[str, float, int]]:
    """The metrics of a training's entry, with its step."""
    step = int(entry["step"])
    return [
        (f"train.{name}", float(value), step)
        for name, value in entry.items()
        if name != "step" and isinstance(value, int | float) and not isinstance(value, bool)
    ]


def numbers(report: EvalReport, verdict: GateVerdict) -> dict[str, float]:
    """Each metric by arm or rule, and what each gate held against its threshold."""
    found = {
        f"{each.arm}.{each.set}.{each.metric}": each.overall.mean
        for each in report.scores
        if each.overall is not None
    }
    for number, each in enumerate(verdict.results, start=1):
        told = {"value": each.value, "low": each.low, "high": each.high, "threshold": each.threshold}
        found |= {f"gate.{number}.{name}": value for name, value in told.items() if value is not None}
    return found


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300]
