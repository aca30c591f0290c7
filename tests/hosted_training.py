"""The stage that has a provider train, without a run; light, since it is started again and again."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from tests.fine_tuning_endpoint import BASE
from tunebook_run.settings import HostedSettings
from tunebook_run.stages import Stage, writing
from tunebook_run.store import Store
from tunebook_spec.method import HostedMethod
from tunebook_train.hosted.train import train_hosted
from tunebook_train.inputs import HostedInputs
from tunebook_train.result import HostedResult

KEY = "sk-never-to-be-seen"


@dataclass(frozen=True)
class Training:
    """What the stage is told; can be sent to another process."""

    folder: Path
    base_url: str
    method: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    sends_personal: bool = False

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    @property
    def stage(self) -> Stage:
        return Stage.of("tiny", "train", self.inputs)

    @property
    def inputs(self) -> HostedInputs:
        method = HostedMethod.model_validate({"kind": "hosted", "model": BASE, **self.method})
        return HostedInputs(method=method, seed=5)

    @property
    def store(self) -> Store:
        return Store(str(self.folder / "runs"), self.folder / "cache")

    @property
    def out(self) -> Path:
        return self.store.folder(self.stage.key)

    def run(self) -> HostedResult:
        known: dict[str, Any] = {"base_url": self.base_url, "api_key": SecretStr(KEY), "poll_s": 0.01}
        with writing(self.store, self.stage) as out:
            return train_hosted(
                self.inputs,
                stage=self.stage,
                store=self.store,
                data_dir=self.data_dir,
                out=out,
                settings=HostedSettings(**{**known, **self.settings}),
                sends_personal=self.sends_personal,
                advance=lambda done, total, note="": None,
            )

    def start(self) -> ForkServerProcess:
        """In a process of its own, which can be killed."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tunebook_train.hosted.train"])
        process = context.Process(target=self.run)
        process.start()
        return process
