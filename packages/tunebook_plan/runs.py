"""Earlier runs of a spec on this machine, as light as a look at files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tunebook_run.record import RunRecord, numbers, read_record
from tunebook_run.stages import read_artifact
from tunebook_run.store import Store
from tunebook_spec import LoadedSpec


def runs_of(loaded: LoadedSpec, store: Store) -> Iterator[RunRecord]:
    """Runs that trained the scenario under the profile, newest first."""
    for number in reversed(numbers(store, loaded.spec.name)):
        record = read_record(store, loaded.spec.name, number)
        if record is not None and record.profile == loaded.profile and record.served is None:
            yield record


def measured_run(runs: Iterable[RunRecord], store: Store) -> RunRecord | None:
    """The newest that was evaluated, and whose evidence has not been cleaned away."""
    for record in runs:
        is_own = record.served is None  # else another model stood in the place of tuned
        if is_own and (key := made(record, "evaluate")) and read_artifact(store, key) is not None:
            return record
    return None


def made(record: RunRecord, name: str) -> str | None:
    """Where a run's stage lies; none: it has not come so far."""
    return next((stage.key for stage in record.stages if stage.name == name), None)
