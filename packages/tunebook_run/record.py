"""Light runs: a number, and a `run.json` that points to stages."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from tunebook_run.store import Store
from tunebook_spec import Spec
from tunebook_spec.errors import InputError, StoreError

Status = Literal["running", "pass", "fail", "inconclusive", "failed", "interrupted", "stopped"]
"""`stopped`: it made the stages that it was asked for, and has no verdict."""


class StageRecord(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    key: str
    digest: str
    skipped: bool
    """Whether an earlier run had made it."""
    seconds: float
    """What this run spent on it."""


class ServedRecord(BaseModel):
    """What answered in the place of a model that the run would have trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    who: str
    """The model and its host, as digests have it."""


class RunRecord(BaseModel):
    """What one run did, and where what it made can be found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scenario: str
    number: int
    profile: str | None
    status: Status
    started_at: datetime
    finished_at: datetime | None = None
    spec: dict[str, JsonValue]
    """The resolved spec: profile and overrides applied."""
    seed: int
    git_commit: str | None
    versions: dict[str, str]
    served: ServedRecord | None = None
    """None: the run has trained what it evaluated."""
    stages: tuple[StageRecord, ...] = ()
    under_way: str | None = None
    """Store key of the stage that is being made; a run that was killed leaves it."""
    verdict: tuple[str, ...] = ()
    """The verdict's lines."""

    @property
    def key(self) -> str:
        return f"{self.scenario}/{self.number}"

    @property
    def name(self) -> str:
        """As commands take it."""
        return f"{self.scenario}@{self.number}"

    def stage(self, name: str) -> StageRecord:
        for stage in self.stages:
            if stage.name == name:
                return stage
        done = ", ".join(stage.name for stage in self.stages) or "none"
        raise InputError(f"run {self.key} has no finished stage {name!r}; finished: {done}")

    @property
    def merged(self) -> StageRecord:
        """The stage that holds the weights of what the run has tuned.

        Raises:
            InputError: a provider holds them, or the run has not come so far.
        """
        method = self.spec["method"]
        if isinstance(method, dict) and method["kind"] == "hosted":
            name = f"{self.scenario}@{self.number}"
            raise InputError(
                f"the model of run {name} is a provider's: ask it there, or let it answer as an arm by"
                " `{model: ROLE}` and an endpoint under `models`; the report has its name"
            )
        return self.stage("merge")

    def read_spec(self) -> Spec:
        """The spec that ran, profile and overrides applied.

        Raises:
            InputError: this version of Tunebook cannot read it.
        """
        try:
            return Spec.model_validate(self.spec)
        except ValidationError as error:
            first = error.errors()[0]
            told = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise InputError(
                f"the spec of run {self.name} is none of this version of Tunebook ({told}); run it again"
            ) from None

    @property
    def chat_template_kwargs(self) -> dict[str, str | bool]:
        """What the chat template of its model is handed."""
        base_model: Any = self.spec["base_model"]
        return dict(base_model.get("chat_template_kwargs", {}))


def save(store: Store, record: RunRecord) -> None:
    store.write(f"{record.key}/run.json", record.model_dump_json(indent=1).encode())


def numbers(store: Store, scenario: str) -> list[int]:
    """Numbers of the scenario's runs, oldest first."""
    names = (Path(key).name for key in store.list(scenario))
    return sorted(int(name) for name in names if name.isdigit())


def claim_number(store: Store, scenario: str) -> int:
    """A number for a new run, claimed so that two runs at once never share one; `latest` points to it."""
    with store.lock(f"{scenario}/numbers", wait_s=30):
        number = max(numbers(store, scenario), default=0) + 1
        store.write(f"{scenario}/{number}/.claimed", b"")
        _link_latest(store, scenario, number)
    return number


def _link_latest(store: Store, scenario: str, number: int) -> None:
    """For people; programs take the highest number. Object stores have no links."""
    if store.local_root is None:
        return
    link = store.local_root / scenario / "latest"
    fresh = link.with_name(f".latest-{number}")
    fresh.unlink(missing_ok=True)
    os.symlink(str(number), fresh)
    fresh.replace(link)


def read_record(store: Store, scenario: str, number: int) -> RunRecord | None:
    """What a run has left of itself; None where it was ended before it could say anything.

    Raises:
        StoreError: the file is damaged.
    """
    key = f"{scenario}/{number}/run.json"
    try:
        return RunRecord.model_validate_json(store.read(key))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors()[0]
        told = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise StoreError(f"{key} in {store.url} is no record of a run ({told}); delete that folder") from None


def all_records(store: Store) -> Iterator[RunRecord]:
    """Every run of every scenario, by scenario and then oldest first.

    Raises:
        StoreError: a record is damaged.
    """
    for scenario in scenarios(store):
        for number in numbers(store, scenario):
            if (record := read_record(store, scenario, number)) is not None:
                yield record


def scenarios(store: Store) -> list[str]:
    """Those that have made anything."""
    return [key for key in store.list("") if store.exists(f"{key}/stages")]


def find_run(store: Store, name: str, *, having: str | None = None) -> RunRecord:
    """A run by `medical`, `medical@latest` or `medical@3`.

    Args:
        store: holds the runs.
        name: of the run.
        having: the latest is the newest run that has finished this stage; None: the newest.

    Raises:
        InputError: names the runs that there are.
    """
    scenario, _, which = name.partition("@")
    known = numbers(store, scenario)
    if not known:
        raise InputError(f"no run of {scenario!r} under {store.url}; make one: make scenario SPEC={scenario}")
    if which in ("", "latest"):
        number = known[-1] if having is None else _newest(store, scenario, known, having)
    elif which.isdigit() and int(which) in known:
        number = int(which)
    else:
        raise InputError(f"no run {name!r}; {scenario} has: latest, {', '.join(map(str, known))}")
    record = read_record(store, scenario, number)
    if record is None:
        raise InputError(f"run {scenario}@{number} was ended before it began; delete {scenario}/{number}")
    return record


def _newest(store: Store, scenario: str, known: list[int], having: str) -> int:
    for number in reversed(known):
        record = read_record(store, scenario, number)
        if record is not None and any(each.name == having for each in record.stages):
            return number
    raise InputError(
        f"no run of {scenario!r} has finished stage {having!r}; run its spec: tunebook run {scenario}"
    )
