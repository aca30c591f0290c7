"""Bounding the disk: stages that no kept run points to, and tokens that no run has read for long."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from tunebook_run.record import RunRecord, numbers, read_record, scenarios
from tunebook_run.stages import ARTIFACT
from tunebook_run.store import Store

TOKENS = "tokens"
"""The folder of the cache that holds rows as tokens; a file's time is that of its last use."""
UNUSED_DAYS = 30


@dataclass(frozen=True)
class Removal:
    key: str
    bytes: int


def plan_clean(store: Store, *, keep: int) -> list[Removal]:
    """What can go while the newest `keep` runs of every scenario that made a model stay whole, and all since.

    Runs that did not finish keep their stages too: they can be resumed.
    """
    removals: list[Removal] = []
    for scenario in scenarios(store):
        records = {number: read_record(store, scenario, number) for number in numbers(store, scenario)}
        # A run that evaluated what is served has made no model, and must not cost one its place.
        made = [number for number, record in records.items() if record is None or record.served is None]
        first = ([0, *made][-keep:] if keep else [max(records, default=0) + 1])[0]
        kept = {number: record for number, record in records.items() if number >= first}
        old = [number for number in records if number < first]
        needed = {stage.key for record in kept.values() if record for stage in record.stages}
        newest = max(kept, default=0)
        unfinished = newest in kept and _is_unfinished(kept[newest])
        for key in store.list(f"{scenario}/stages"):
            done = store.exists(f"{key}/{ARTIFACT}")
            if Path(key).suffix or key in needed or (unfinished and not done):
                continue
            removals.append(Removal(key, store.size(key)))
        removals += [Removal(f"{scenario}/{number}", store.size(f"{scenario}/{number}")) for number in old]
    return removals


def _is_unfinished(record: RunRecord | None) -> bool:
    return record is None or record.finished_at is None


def clean(store: Store, removals: list[Removal]) -> None:
    """Delete, each stage under its lock, so that none is taken from under a run."""
    for removal in removals:
        with store.lock(removal.key):
            store.delete(removal.key)


def unused_tokens(cache_dir: Path, *, keep: int) -> list[Path]:
    """Files of tokens that no run has read for `UNUSED_DAYS`; all where no run is kept.

    They may be deleted at any time: a run has them mapped, and the next one makes them again.
    """
    since = time.time() - UNUSED_DAYS * 24 * 3600 if keep else float("inf")
    return [path for path in sorted((cache_dir / TOKENS).glob("*/*")) if path.stat().st_mtime < since]
