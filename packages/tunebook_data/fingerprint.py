"""Cheap looks at a spec's sources before anything runs: are they there, and has their content changed?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from tunebook_data.datasets import medical_glossary
from tunebook_data.sources import resolve_path
from tunebook_data.wheels import pinned_wheels
from tunebook_spec import LoadedSpec
from tunebook_spec.errors import DataError, Problem
from tunebook_spec.models import Data, DatasetSource, JsonlSource, TaskSet

DATASET_FORMAT = 1
"""Raised when the code of a built-in data set makes other rows of the same packages."""
_REPLAY_TASK = "replay"


def source_digests(data: Data, *, spec_dir: Path, assets_dir: Path) -> dict[str, str]:
    """A digest of the content of each source, by a name that is the same on every machine.

    The order of sources does not matter here. Built-in data sets are told by the pins of their packages and
    the authored files, not by reading the packages.

    Raises:
        DataError: a file cannot be read.
    """
    digests = {}
    for source in data.sources:
        if isinstance(source, JsonlSource):
            digests[f"jsonl:{source.path}"] = _file_digest(resolve_path(source, spec_dir))
        else:
            digests[f"dataset:{source.name}"] = _dataset_digest()
    digests["suites"] = _folder_digest("tunebook_data.suites")
    return dict(sorted(digests.items()))


def preflight(loaded: LoadedSpec, *, assets_dir: Path) -> list[Problem]:
    """What only a look at this machine can tell about a spec's data, placed in the spec's file."""
    return [loaded.problem(where, message) for where, message in _problems(loaded, assets_dir)]


def _problems(loaded: LoadedSpec, assets_dir: Path) -> Iterator[tuple[tuple[str | int, ...], str]]:
    spec = loaded.spec
    seen: set[tuple[str, str]] = set()
    for index, source in enumerate(spec.data.sources):
        at = ("data", "sources", index)
        if isinstance(source, DatasetSource):
            field, place = "name", str(source.name)
            yield from ((at + where, message) for where, message in _dataset_problems(source, assets_dir))
        else:
            field, place = "path", str(resolve_path(source, loaded.path.parent))
            message = _file_problem(Path(place))
            if message:
                yield (*at, "path"), message
        if (place, source.task) in seen:
            yield (*at, field), "is listed twice for the same task: every row would be a duplicate"
        seen.add((place, source.task))
        if spec.data.replay and source.task == _REPLAY_TASK:
            yield (*at, "task"), f"{_REPLAY_TASK!r} is the task of rehearsed rows; name it otherwise"
    for name, each in spec.evaluation.sets.items():
        asked = [
            source for source in spec.data.sources if isinstance(each, TaskSet) and source.task == each.task
        ]
        if asked and not any(source.split.test for source in asked):
            message = "has no test rows: every source of this task has split.test 0"
            yield ("evaluation", "sets", name, "task"), message


def _dataset_problems(source: DatasetSource, assets_dir: Path) -> Iterator[tuple[tuple[str, ...], str]]:
    if source.task not in medical_glossary.TASKS:
        known = ", ".join(medical_glossary.TASKS)
        yield ("task",), f"{source.name} derives no task {source.task!r}; it has {known}"
    for name, (version, _) in sorted(pinned_wheels().items()):
        if not any((assets_dir / "wheels").glob(f"{name.replace('-', '_')}-{version}-*.whl")):
            yield ("name",), f"needs the data package {name} {version}, not in {assets_dir}; run `make setup`"


def _file_problem(path: Path) -> str | None:
    if path.is_dir():
        return f"is a folder, not one JSONL file: {path}"
    if not path.is_file():
        return f"no such file: {path}"
    try:
        path.open("rb").close()
    except OSError as error:
        return f"cannot be read ({error.strerror}): {path}"
    return None if path.stat().st_size else f"is an empty file: {path}"


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _dataset_digest() -> str:
    pins = sorted(pinned_wheels().items())
    authored = _folder_digest("tunebook_data.datasets")
    return hashlib.sha256(repr((DATASET_FORMAT, pins, authored)).encode()).hexdigest()


def _folder_digest(package: str) -> str:
    """Over the data files of a package."""
    digest = hashlib.sha256()
    for file in sorted(files(package).iterdir(), key=lambda file: file.name):
        if file.name.endswith((".jsonl", ".tsv")):
            digest.update(f"{file.name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
