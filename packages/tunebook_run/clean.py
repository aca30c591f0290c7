"""Bounding the disk: stages that no kept run points to, and tokens that no run has read for long."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from tunebook_run.record import RunRecord, numbers, scenarios
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
    """What can go while the newest `keep` runs of every scenario stay whole.

    Runs that did not finish keep their stages too: they can be resumed.
    """
    removals: list[Removal] = []
    for scenario in scenarios(store):
        known = numbers(store, scenario)
        kept, old = known[-keep:] if keep else [], known[:-keep] if keep else known
        needed: set[str] = set()
        for number in kept:
            record = RunRecord.model_validate_json(store.read(f"{scenario}/{number}/run.json"))
            needed |= {stage.key for stage in record.stages}
        unfinished = bool(kept) and record.finished_at is None
        for key in store.list(f"{scenario}/stages"):
            done = store.exists(f"{key}/{ARTIFACT}")
            if Path(key).suffix or key in needed or (unfinished and not done):
                continue
            removals.append(Removal(key, store.size(key)))
        removals += [Removal(f"{scenario}/{number}", store.size(f"{scenario}/{number}")) for number in old]
    return removals


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
