"""The stage that has a provider train, on rows that need no spec."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import SecretStr

from tests.fine_tuning_endpoint import BASE, FineTuning
from tunebook_data.rows import Row, write_rows
from tunebook_data.tokens import write_tokens
from tunebook_model.conversation import Message
from tunebook_model.render import Rendered
from tunebook_run.settings import HostedSettings
from tunebook_run.stages import Stage, writing
from tunebook_run.store import Store
from tunebook_spec.method import HostedMethod
from tunebook_train.hosted.train import train_hosted
from tunebook_train.inputs import HostedInputs
from tunebook_train.result import HostedResult

KEY = "sk-never-to-be-seen"
TOKENS = 7
"""Of each row."""


def row(number: int, answer: str = "Yes.", **fields: Any) -> Row:
    messages: list[Message] = [
        {"role": "user", "content": f"Is {number} a number?"},
        {"role": "assistant", "content": answer},
    ]
    known = {"messages": tuple(messages), "task": "t", "group": str(number), "source": "rows.jsonl"}
    return Row(**{"id": f"r{number}", "line": number + 1, **known, **fields})


@dataclass(frozen=True)
class Training:
    """What the stage is told; can be sent to another process."""

    folder: Path
    base_url: str
    method: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    sends_personal: bool = False

    def prepare(self, train: list[Row], validation: list[Row]) -> None:
        """What the stage reads."""
        self.data_dir.mkdir(parents=True)
        for side, rows in (("train", train), ("validation", validation)):
            write_rows(self.data_dir / f"{side}.jsonl", rows)
            ids = np.arange(TOKENS, dtype=np.int32)
            rendered = Rendered(ids, np.ones(TOKENS, np.bool_))
            pairs = [(each.id, rendered) for each in rows]
            pairs += [(f"{each.id}-rejected", rendered) for each in rows if each.rejected]
            write_tokens(self.data_dir / f"{side}.tokens.arrow", pairs)

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
        context.set_forkserver_preload(["tunebook_train.hosted.train", "tunebook_data.tokens"])
        process = context.Process(target=self.run)
        process.start()
        return process


def training(folder: Path, service: FineTuning, **fields: Any) -> Training:
    """With twelve rows to train on and two for validation."""
    made = Training(folder, service.base_url, **fields)
    made.prepare([row(number) for number in range(12)], [row(number) for number in (20, 21)])
    return made
