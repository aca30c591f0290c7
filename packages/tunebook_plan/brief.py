"""Advice in two lines, for a run to begin with; kept, so that a repeated run has it at once."""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files

from tunebook_plan.runs import made, measured_run, runs_of
from tunebook_run.progress import progress
from tunebook_run.settings import Settings
from tunebook_run.stages import Stage, find
from tunebook_run.store import Store
from tunebook_spec import LoadedSpec

QUICK_BYTES = 64 << 20
"""Sources that are larger are not read for two lines: `prepare` will."""


def brief(loaded: LoadedSpec, settings: Settings, prepare: Stage) -> tuple[str, str]:
    """The way and what speaks against it.

    Args:
        loaded: the spec.
        settings: of this machine.
        prepare: the stage that makes the spec's data set.

    Raises:
        InputError: as `gather`.
    """
    store = Store(settings.storage_url, settings.cache_dir)
    prepared = prepare.key if find(store, prepare) else None
    kept = settings.cache_dir / "advice" / f"{_digest(loaded, settings, store, prepare, prepared)}.json"
    if kept.is_file():
        way, against = json.loads(kept.read_text(encoding="utf-8"))
        return way, against
    from tunebook_plan.advise import advise
    from tunebook_plan.gather import gather

    with progress("advice") as advance:
        facts = gather(loaded, settings, prepared=prepared, at_most_bytes=QUICK_BYTES, advance=advance)
    lines = advise(facts).lines
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(lines), encoding="utf-8")
    return lines


def _digest(
    loaded: LoadedSpec, settings: Settings, store: Store, prepare: Stage, prepared: str | None
) -> str:
    """Of all that decides the lines, our own code among it."""
    run = measured_run(runs_of(loaded, store), store)
    decides = [
        _code_digest(),
        loaded.spec.model_dump(mode="json"),
        prepare.digest,
        prepared,
        made(run, "evaluate") if run else None,
        settings.local_price_per_hour,
    ]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


def _code_digest() -> str:
    digest = hashlib.sha256()
    for file in sorted(files("tunebook_plan").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".py"):
            digest.update(file.read_bytes())
    return digest.hexdigest()
