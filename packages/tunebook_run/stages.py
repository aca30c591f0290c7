"""Content-addressed stages: what decides an output decides its place, and what is there is not made again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue

from tunebook_run.store import LEASE_S, Store
from tunebook_spec.errors import StoreError

ARTIFACT = "artifact.json"
SCRATCH = ("checkpoints", "ray_train")
"""Folders of a stage that only its next attempt reads."""


class Artifact(BaseModel):
    """What a finished stage says of itself; its presence means that the stage is done."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    digest: str
    inputs: dict[str, JsonValue]
    """Everything that was digested: spec fields, parents, contents, versions."""
    files: dict[str, str]
    """sha256 of every file that the stage left, by name."""
    result: dict[str, JsonValue]
    """What the stage returned: paths, counts, digests."""
    seconds: float
    finished_at: datetime


class Stage(BaseModel):
    """One stage of one scenario, addressed by the digest of everything that decides its output."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scenario: str
    name: str
    inputs: dict[str, JsonValue]

    @classmethod
    def of(
        cls,
        scenario: str,
        name: str,
        fields: BaseModel,
        *,
        parents: Mapping[str, str] | None = None,
        contents: Mapping[str, str] | None = None,
        libraries: tuple[str, ...] = (),
        format: int = 1,
    ) -> Stage:
        """Address a stage.

        Args:
            scenario: the spec's name.
            name: the stage's name.
            fields: the part of the spec that the stage reads; its process is handed this and nothing else.
            parents: digest of each parent stage, by name.
            contents: digest of each outside content: sources, base model.
            libraries: distributions whose version decides the output.
            format: raised when the stage's own code changes its output.
        """
        inputs: dict[str, JsonValue] = {
            "format": format,
            "fields": fields.model_dump(mode="json"),
            "parents": dict(parents or {}),
            "contents": dict(contents or {}),
            "libraries": {library: _version(library) for library in libraries},
        }
        return cls(scenario=scenario, name=name, inputs=inputs)

    @property
    def parents(self) -> tuple[str, ...]:
        """Names of the stages that this one reads."""
        parents = self.inputs["parents"]
        assert isinstance(parents, dict)
        return tuple(parents)

    @property
    def digest(self) -> str:
        canonical = json.dumps([self.name, self.inputs], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def key(self) -> str:
        return stage_key(self.scenario, self.name, self.digest)


def stage_key(scenario: str, name: str, digest: str) -> str:
    """Where a stage's output lies in the store."""
    return f"{scenario}/stages/{name}-{digest[:12]}"


def find(store: Store, stage: Stage) -> Artifact | None:
    """The stage's artifact, if it is done."""
    return read_artifact(store, stage.key)


def read_artifact(store: Store, key: str) -> Artifact | None:
    """The artifact under a stage's key, if the stage is done."""
    try:
        content = store.read(f"{key}/{ARTIFACT}")
    except FileNotFoundError:
        return None
    try:
        return Artifact.model_validate_json(content)
    except ValueError as error:
        raise StoreError(
            f"{key}/{ARTIFACT} in {store.url} is damaged; delete that folder and run again ({error})"
        ) from None


@contextmanager
def writing(store: Store, stage: Stage) -> Iterator[Path]:
    """The folder in which a stage may write, as its only writer; what an earlier attempt left is there."""
    # A store that is not local does not see a lost host's hold end: it runs out.
    with store.lock(stage.key, wait_s=0.0 if store.local_root is not None else LEASE_S + 1):
        folder = store.download(stage.key, without=SCRATCH)
        folder.mkdir(parents=True, exist_ok=True)
        yield folder


def commit(store: Store, stage: Stage, result: dict[str, Any], seconds: float) -> Artifact:
    """Declare a stage done: its files first, then `artifact.json`; only then what it needed till now goes."""
    folder = store.folder(stage.key)
    names = sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.name != ARTIFACT and not is_scratch(str(path.relative_to(folder)))
    )
    artifact = Artifact(
        stage=stage.name,
        digest=stage.digest,
        inputs=stage.inputs,
        files={name: sha256(folder / name) for name in names},
        result=result,
        seconds=round(seconds, 1),
        finished_at=datetime.now(UTC),
    )
    store.upload(stage.key, *names)
    store.write(f"{stage.key}/{ARTIFACT}", artifact.model_dump_json(indent=1).encode())
    for name in SCRATCH:
        store.delete(f"{stage.key}/{name}")
    return artifact


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_scratch(name: str) -> bool:
    """Unfinished writes, and what only an unfinished stage needs."""
    parts = Path(name).parts
    return parts[0] in SCRATCH or any(part.startswith(".") for part in parts)


@cache
def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "absent"
