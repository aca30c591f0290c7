"""What a training under way has told since one last looked, as events of the protocol."""

from __future__ import annotations

import time
from pathlib import PurePosixPath
from typing import Any

from tunebook_jobs.events import NewEvent
from tunebook_jobs.ids import scenario_of
from tunebook_jobs.tables import Job
from tunebook_run.store import Store
from tunebook_train.job import read_metrics


class Follower:
    def __init__(self, job: Job, store: Store) -> None:
        self._store, self._scenario = store, scenario_of(job.id)
        self._told = -1
        """The newest step of which all is told."""
        self._first: tuple[float, int] | None = None
        """When the first step was seen, and which: what an earlier attempt took says nothing of this one."""
        self._steps, self._total = 0, 0

    def fresh(self) -> list[NewEvent]:
        key = train_key(self._store, self._scenario)
        steps = merged_steps(read_metrics(self._store, key)) if key else []
        if not steps:
            return []
        self._steps, self._total = steps[-1]["step"], steps[-1]["total_steps"]
        self._first = self._first or (time.time(), self._steps)
        # A validation of the newest step may follow it.
        done = [each for each in steps if each["step"] < self._steps or each["step"] == each["total_steps"]]
        made = [_event(each) for each in done if each["step"] > self._told]
        self._told = max([self._told, *(each["step"] for each in done)])
        return made

    def finish_at(self) -> int | None:
        """Unix time at which the steps will be done at their pace; None before two steps were seen."""
        if self._first is None or self._steps <= self._first[1]:
            return None
        since, first = self._first
        pace = (time.time() - since) / (self._steps - first)
        return int(time.time() + pace * (self._total - self._steps))


def train_key(store: Store, scenario: str) -> str | None:
    """Where a job's training is in the store; None while there is none."""
    names = [PurePosixPath(key) for key in store.list(f"{scenario}/stages")]
    found = [str(key) for key in names if key.name.startswith("train-") and "." not in key.name]
    return found[0] if found else None


def merged_steps(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry a step by the protocol's names, from 1 on, with its validation loss where there was one."""
    steps: dict[int, dict[str, Any]] = {}
    for entry in entries:
        if not entry.get("step"):
            continue
        values = steps.setdefault(entry["step"], {"step": entry["step"], "total_steps": 0})
        values["total_steps"] = entries[0]["num_steps"]
        if "loss" in entry:
            values["train_loss"] = round(entry["loss"], 6)
        if entry.get("validation_loss") is not None:
            values["valid_loss"] = values["full_valid_loss"] = round(entry["validation_loss"], 6)
    return [steps[number] for number in sorted(steps)]


def _event(values: dict[str, Any]) -> NewEvent:
    said = f"Step {values['step']}/{values['total_steps']}: training loss={values['train_loss']:.4f}"
    if "valid_loss" in values:
        said += f", validation loss={values['valid_loss']:.4f}"
    return NewEvent(said, data=values, step=values["step"])
