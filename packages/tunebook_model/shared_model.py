"""A model's folder, where every host of a cluster finds it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tunebook_model.digests import model_digest
from tunebook_run.store import Store

_WRITTEN_LAST = "config.json"
"""So that a model which has it is whole."""


@dataclass(frozen=True)
class SharedModel:
    """Exactly one of the two is set."""

    path: str | None
    """Where every host sees this machine's disk."""
    key: str | None
    """In the store, where they do not."""

    def on_this_host(self, store: Store) -> Path:
        return store.download(self.key) if self.key is not None else Path(str(self.path))


def share_model(model_dir: Path, store: Store) -> SharedModel:
    """Put a model where every host can read it; what came from the store is there already."""
    if store.local_root is not None:
        return SharedModel(str(model_dir), None)
    if (known := store.key_of(model_dir)) is not None:
        return SharedModel(None, known)
    key = f"models/{model_digest(model_dir, store.cache_dir)[:12]}"
    if not store.exists(f"{key}/{_WRITTEN_LAST}"):
        files = sorted(path for path in model_dir.iterdir() if path.is_file())
        for path in sorted(files, key=lambda path: path.name == _WRITTEN_LAST):
            store.put(path, f"{key}/{path.name}")
    return SharedModel(None, key)
