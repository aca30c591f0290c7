"""Whether what a run points to is still what the run made: every digest again, from what lies there now.

Digests guard against damage and mistakes. Who can write the store can also write digests that agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tunebook_run.differences import differences
from tunebook_run.record import RunRecord, StageRecord
from tunebook_run.stages import ARTIFACT, Artifact, Stage, is_scratch, read_artifact
from tunebook_run.store import Store
from tunebook_spec.errors import StoreError

_VERSIONS = ("format", "libraries")


@dataclass(frozen=True)
class Finding:
    where: str
    """A stage, and the file or input of it: `merge: model/model.safetensors`."""
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass
class Verification:
    num_files: int = 0
    disagreements: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    """What is otherwise today and was no part of what the run made: other versions, for one."""
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    """By stage, those that are there."""

    def agrees(self, stage: str) -> bool:
        """Whether a stage is there and nothing of it was found to be otherwise."""
        places = {each.where.partition(":")[0] for each in self.disagreements}
        return stage in self.artifacts and stage not in places


def verify_stages(store: Store, record: RunRecord, copies: Mapping[str, str]) -> Verification:
    """Read every file of every stage, and hold it against what the stage and the run say.

    Args:
        store: holds the run; what this machine keeps of a remote one is not trusted.
        record: the run.
        copies: name of each page that lies beside `run.json` too, and the stage that made it.
    """
    found = Verification()
    for each in record.stages:
        try:
            artifact = read_artifact(store, each.key)
        except StoreError as error:
            found.disagreements.append(Finding(f"{each.name}: {ARTIFACT}", str(error)))
            continue
        if artifact is None:
            found.disagreements.append(Finding(each.name, f"{each.key} is gone; run the spec again"))
            continue
        found.artifacts[each.name] = artifact
        found.disagreements += _chain(record, each, artifact)
        found.disagreements += _files(store, each, artifact)
        found.num_files += len(artifact.files)
    for name, stage in copies.items():
        if (of_stage := found.artifacts.get(stage)) and name in of_stage.files:
            found.num_files += 1
            where = f"{record.key}/{name}"
            found.disagreements += _file(store, where, where, of_stage.files[name])
    return found


def compare_inputs(
    found: Verification, recomputed: Mapping[str, Stage], read: Callable[[str, Any], Any | None]
) -> None:
    """Hold what each stage was made from against what the same spec would be made from now.

    Args:
        found: gets what is otherwise.
        recomputed: every stage of the run's spec, from today's sources, models and code.
        read: the fields of a stage by its name, with all that this version knows; None: they are of another
            version's form.
    """
    for name, artifact in found.artifacts.items():
        if name not in recomputed:
            found.notes.append(Finding(name, "this version of Tunebook has no such stage"))
            continue
        now = {key: value for key, value in recomputed[name].inputs.items() if key != "parents"}
        then = {key: value for key, value in artifact.inputs.items() if key != "parents"}
        fields = read(name, then["fields"])
        if fields is None:
            found.notes.append(Finding(name, "its fields are not those of this version of Tunebook"))
        else:
            then["fields"] = fields
        for each in differences(then, now):
            was, is_ = each.shown
            finding = Finding(f"{name}: {each.path}", f"was {was} and is {is_}")
            is_known = fields is not None and each.path.startswith("fields")
            of_versions = each.path.startswith(_VERSIONS) or not (each.is_change or is_known)
            (found.notes if of_versions else found.disagreements).append(finding)


def _chain(record: RunRecord, stage: StageRecord, artifact: Artifact) -> Iterator[Finding]:
    """The digest follows from the inputs, and the inputs from the stages before."""
    where = f"{stage.name}: {ARTIFACT}"
    made = Stage(scenario=record.scenario, name=artifact.stage, inputs=artifact.inputs)
    if not (made.digest == artifact.digest == stage.digest):
        told = f"its inputs have the digest {made.digest[:12]}, itself it says {artifact.digest[:12]}"
        yield Finding(where, f"{told}, and the run says {stage.digest[:12]}")
    digests = {each.name: each.digest for each in record.stages}
    parents: Any = artifact.inputs.get("parents", {})
    for parent, digest in parents.items():
        if digests.get(parent) != digest:
            yield Finding(where, f"it was made from another {parent} ({digest[:12]}) than the run's")


def _files(store: Store, stage: StageRecord, artifact: Artifact) -> Iterator[Finding]:
    for name, digest in artifact.files.items():
        yield from _file(store, f"{stage.name}: {name}", f"{stage.key}/{name}", digest)
    for key in store.list_files(stage.key):
        name = key.removeprefix(f"{stage.key}/")
        if name != ARTIFACT and name not in artifact.files and not is_scratch(name):
            yield Finding(f"{stage.name}: {name}", "the stage left no such file")


def _file(store: Store, where: str, key: str, digest: str) -> Iterator[Finding]:
    try:
        now = store.sha256(key)
    except FileNotFoundError:
        yield Finding(where, "is gone")
        return
    if now != digest:
        yield Finding(where, f"was changed: its sha256 was {digest[:12]} and is {now[:12]}")
