"""Cheap looks at a spec's sources before anything runs: are they there, and has their content changed?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path

from tunebook_data.answer_schema import schema_problem
from tunebook_data.datasets.catalogue import CATALOGUE
from tunebook_data.hub_files import fetch
from tunebook_data.records import check_kind
from tunebook_data.rows import REPLAY_TASK
from tunebook_data.source_files import SourceFile, public_name, source_files
from tunebook_data.sources import files_of, source_name
from tunebook_data.suite_files import read_suite
from tunebook_data.wheels import pinned_wheels
from tunebook_spec import LoadedSpec
from tunebook_spec.data import Data, DatasetSource, FileSource, HubSource
from tunebook_spec.errors import DataError, Problem, SpecError
from tunebook_spec.evaluation import FileSet, TaskSet
from tunebook_spec.metrics import ChoiceAccuracy

DATASET_FORMAT = 1
"""Raised when the code of a built-in data set makes other rows of the same packages."""


def source_digests(
    data: Data, *, suite_files: Sequence[str] = (), spec_dir: Path, assets_dir: Path
) -> dict[str, str]:
    """A digest of the content of each source and suite, by a name that is the same on every machine.

    The order of sources does not matter here. Built-in data sets are told by the pins of their packages and
    the authored files, not by reading the packages.

    Raises:
        DataError: a file cannot be read.
    """
    digests = {}
    for source in data.sources:
        if isinstance(source, FileSource | HubSource):
            digests[f"{source.kind}:{source_name(source)}"] = _files_digest(files_of(source, spec_dir))
        else:
            digests[f"dataset:{source.name}"] = _dataset_digest()
    for path in suite_files:
        digests[f"suite:{public_name(path)}"] = _files_digest(source_files(path, spec_dir))
    digests["suites"] = _folder_digest("tunebook_data.suites")
    return dict(sorted(digests.items()))


def preflight(loaded: LoadedSpec, *, assets_dir: Path) -> list[Problem]:
    """What only a look at this machine can tell about a spec's data, placed in the spec's file."""
    return [loaded.problem(where, message) for where, message in _problems(loaded, assets_dir)]


def refuse_problems(loaded: LoadedSpec, *, assets_dir: Path) -> None:
    """Raises SpecError with all that `preflight` finds."""
    if problems := preflight(loaded, assets_dir=assets_dir):
        raise SpecError(str(loaded.path), tuple(problems))


def _problems(loaded: LoadedSpec, assets_dir: Path) -> Iterator[tuple[tuple[str | int, ...], str]]:
    spec = loaded.spec
    seen: set[tuple[str, ...]] = set()
    for index, source in enumerate(spec.data.sources):
        at = ("data", "sources", index)
        if isinstance(source, DatasetSource):
            field, places = "name", [str(source.name)]
            yield from ((at + where, message) for where, message in _dataset_problems(source, assets_dir))
        else:
            field = "path"
            try:
                places = _places(source, loaded.path.parent)
            except DataError as error:
                yield (*at, field), str(error)
                continue
        keys = {(place, source.task, repr(getattr(source, "columns", None))) for place in places}
        if keys & seen:
            yield (*at, field), "is listed twice for the same task: every row would be a duplicate"
        seen |= keys
        if spec.data.replay and source.task == REPLAY_TASK:
            yield (*at, "task"), f"{REPLAY_TASK!r} is the task of rehearsed rows; name it otherwise"
    for task, schema in spec.data.checks.answer_schema.items():
        if (message := schema_problem(schema)) is not None:
            yield ("data", "checks", "answer_schema", task), message
    for name, each in spec.evaluation.sets.items():
        if isinstance(each, FileSet):
            told = ("evaluation", "sets", name, "file")
            yield from ((told, message) for message in _suite_problems(each, loaded.path.parent))
        asked = [
            source for source in spec.data.sources if isinstance(each, TaskSet) and source.task == each.task
        ]
        if asked and not any(source.split.test for source in asked):
            message = "has no test rows: every source of this task has split.test 0"
            yield ("evaluation", "sets", name, "task"), message


def _suite_problems(of_file: FileSet, spec_dir: Path) -> Iterator[str]:
    try:
        items = read_suite(of_file.file, spec_dir)
    except DataError as error:
        yield str(error)
        return
    chooses = any(isinstance(one, ChoiceAccuracy) and one.choices is None for one in of_file.metrics)
    free = [item for item in items if not item.choices]
    if chooses and free:
        yield (
            f"{len(free)} rows have no `choices`, which choice_accuracy needs, the first {free[0].q!r}; give"
            " them some, or put them into a set of their own"
        )


def _dataset_problems(source: DatasetSource, assets_dir: Path) -> Iterator[tuple[tuple[str, ...], str]]:
    built_in = CATALOGUE[source.name]
    if source.task not in built_in.tasks:
        known = ", ".join(built_in.tasks)
        yield ("task",), f"{source.name} derives no task {source.task!r}; it has {known}"
    for name in built_in.packages:
        version, _ = pinned_wheels()[name]
        if not any((assets_dir / "wheels").glob(f"{name.replace('-', '_')}-{version}-*.whl")):
            yield ("name",), f"needs the data package {name} {version}, not in {assets_dir}; run `make setup`"


def _places(source: FileSource | HubSource, spec_dir: Path) -> list[str]:
    """Where the files of a source lie, each of a kind that can be read."""
    if isinstance(source, HubSource):
        fetch(source)
    files = files_of(source, spec_dir)
    for file in files:
        check_kind(file.name)
    return [file.place for file in files]


def _files_digest(files: Iterable[SourceFile]) -> str:
    """Over the names and contents of files, in their order."""
    digest = hashlib.sha256()
    for file in files:
        try:
            with file.open() as stream:
                content = hashlib.file_digest(stream, "sha256").digest()  # type: ignore[arg-type]
        except OSError as error:
            raise DataError(f"{file.name}: cannot be read ({error.strerror or error})") from None
        digest.update(f"{file.name}\0".encode() + content)
    return digest.hexdigest()


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
