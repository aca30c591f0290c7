"""The facts that advice rests on, read from runs of this spec or else from its sources."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from pydantic import ValidationError

from tunebook_data.fingerprint import source_digests
from tunebook_data.inputs import PrepareInputs, files_asked
from tunebook_data.manifest import DatasetManifest, SourceCounts
from tunebook_data.rows import REPLAY_TASK
from tunebook_data.sources import files_of
from tunebook_plan.facts import Facts, RowFacts
from tunebook_plan.measure import measure
from tunebook_plan.runs import made, measured_run, runs_of
from tunebook_run.progress import Advance
from tunebook_run.settings import Settings
from tunebook_run.stages import read_artifact
from tunebook_run.store import Store
from tunebook_spec import LoadedSpec
from tunebook_spec.data import FileSource, HubSource

MAX_LOOKED_AT = 5000
"""Rows that answers and lengths are told by."""
_HEAD_BYTES = 8 << 20


def gather(
    loaded: LoadedSpec, settings: Settings, *, prepared: str | None, at_most_bytes: float, advance: Advance
) -> Facts:
    """Everything that is known of a spec on this machine; no model is asked or needed.

    Args:
        loaded: the spec.
        settings: of this machine.
        prepared: store key of the data set that is made of it; none: its sources are read.
        at_most_bytes: larger sources, and those of other machines, are not read.
        advance: told of rows checked.

    Raises:
        DataError: a source cannot be read, or too many of its rows are rejects.
    """
    store = Store(settings.storage_url, settings.cache_dir)
    rows = None if prepared is None else _of_data_set(prepared, store)
    if rows is None and _source_bytes(loaded) <= at_most_bytes:
        rows = source_rows(loaded, settings, advance)
    run = measured_run(runs_of(loaded, store), store)
    return Facts(
        spec=loaded.spec,
        rows=rows,
        measured=measure(run, loaded, store) if run else None,
        price_per_hour=settings.local_price_per_hour,
    )


def find_prepared(loaded: LoadedSpec, settings: Settings) -> str | None:
    """Store key of the newest data set that a run has made of just these sources; none: there is no such.

    Raises:
        DataError: a source cannot be read.
    """
    store = Store(settings.storage_url, settings.cache_dir)
    wanted = PrepareInputs.of(loaded.spec).model_dump(mode="json")
    sources = source_digests(
        loaded.spec.data,
        suite_files=files_asked(loaded.spec),
        spec_dir=loaded.path.parent,
        assets_dir=settings.assets_dir,
    ).items()
    for key in dict.fromkeys(filter(None, (made(run, "prepare") for run in runs_of(loaded, store)))):
        artifact = read_artifact(store, key)
        if artifact is None or _as_read_now(artifact.inputs["fields"]) != wanted:
            continue
        contents = artifact.inputs["contents"]
        assert isinstance(contents, dict)
        if sources <= contents.items():
            return key
    return None


def _as_read_now(fields: object) -> dict[str, Any] | None:
    """What an earlier version wrote, as this one would; None: it cannot read it."""
    try:
        return PrepareInputs.model_validate(fields).model_dump(mode="json")
    except ValidationError:
        return None


def _of_data_set(key: str, store: Store) -> RowFacts | None:
    """None where another version of Tunebook has made it."""
    artifact = read_artifact(store, key)
    assert artifact is not None
    result = {name: value for name, value in artifact.result.items() if name != "summary"}
    try:
        manifest = DatasetManifest.model_validate(result)
    except ValidationError:
        return None
    train = _by_task(manifest.sources)
    written = sum(each.kept for each in (manifest.augment, manifest.distill) if each)
    return RowFacts(
        origin=f"data set {key}",
        train=train | ({"written by a teacher": written} if written else {}),
        test=manifest.splits["test"].rows,
        rows_in=sum(source.rows_in for source in manifest.sources),
        flawed=sum(map(_num_flawed, manifest.sources)) + sum(manifest.flags_by_reason.values()),
        **_looked_at(_first_rows(f"{key}/train.jsonl", store)),
    )


def _by_task(sources: Iterable[SourceCounts]) -> dict[str, int]:
    """Training rows of the tasks that are learnt."""
    train: Counter[str] = Counter()
    for source in sources:
        train[source.task] += source.train
    return dict(+train)


def _num_flawed(source: SourceCounts) -> int:
    return source.rejects + source.duplicates + source.near_duplicates


def _first_rows(key: str, store: Store) -> Iterator[_Told]:
    """The first rows of a stored file."""
    with store.filesystem.open_input_stream(store.path(key)) as stream:
        lines = bytes(stream.read(_HEAD_BYTES)).splitlines(keepends=True)
    for line in lines:
        if line.endswith(b"\n"):  # the last may be cut
            row = orjson.loads(line)
            yield _Told.of(row["task"], row["messages"], row["messages"][-1]["content"])


class _Told(NamedTuple):
    """What is looked at of a row."""

    task: str
    answer: str
    question_chars: int
    shown_chars: int

    @classmethod
    def of(cls, task: str, messages: Sequence[Mapping[str, Any]], answer: str) -> _Told:
        asked = [(each["role"], len(each["content"])) for each in messages[:-1]]
        shown = sum(num for role, num in asked if role != "system") + len(answer)
        return cls(task, answer, sum(num for _, num in asked), shown)


def _looked_at(rows: Iterable[_Told]) -> dict[str, Any]:
    known = list(islice((row for row in rows if row.task != REPLAY_TASK), MAX_LOOKED_AT))
    num = max(len(known), 1)
    return {
        "looked_at": len(known),
        "answers": len({(row.task, row.answer) for row in known}),
        "question_chars": sum(row.question_chars for row in known) / num,
        "shown_chars": sum(row.shown_chars for row in known) / num,
    }


def _source_bytes(loaded: LoadedSpec) -> float:
    """Of the sources that lie in files; infinite for what is not on this machine."""
    sources = [source for source in loaded.spec.data.sources if isinstance(source, FileSource | HubSource)]
    places = [Path(file.place) for source in sources for file in files_of(source, loaded.path.parent)]
    return sum(place.stat().st_size if place.is_file() else math.inf for place in places)


def source_rows(loaded: LoadedSpec, settings: Settings, advance: Advance) -> RowFacts:
    """What `tunebook data check` finds in the sources."""
    from tunebook_data.assemble import assemble
    from tunebook_data.checked import flags_by_reason

    made = assemble(
        PrepareInputs.of(loaded.spec),
        renderer=None,
        spec_dir=Path(loaded.path.parent),
        assets_dir=settings.assets_dir,
        advance=advance,
    )
    rows = made.distinct
    told = (_Told.of(row.task, row.messages, row.reference) for row in rows["train"])
    return RowFacts(
        origin="read from the sources, without a model",
        train=_by_task(made.sources),
        test=len(rows["test"]),
        rows_in=sum(source.rows_in for source in made.sources),
        flawed=sum(map(_num_flawed, made.sources))
        + sum(flags_by_reason(made.flags, loaded.spec.data.checks).values()),
        **_looked_at(told),
    )
