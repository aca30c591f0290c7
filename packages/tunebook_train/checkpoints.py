"""The newest checkpoints of a training, in the store that all its workers see.

Ray Train would keep them too, but only for workers of a cluster: a training of one process has the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pyarrow import fs

from tunebook_run.store import Store
from tunebook_train.checkpoint import CHECKSUMS, Training
from tunebook_train.job import CHECKPOINTS
from tunebook_train.sharding import is_first

NUM_KEPT = 2


class Checkpoints:
    """Folders by step under `checkpoints/` of a stage.

    Args:
        store: of the training.
        stage_key: of the training.
    """

    def __init__(self, store: Store, stage_key: str) -> None:
        self._store = store
        self._key = f"{stage_key}/{CHECKPOINTS}"

    def newest_first(self) -> Iterator[Path]:
        """Each on this machine's disk, for as long as it is looked at."""
        for key in reversed(self._keys()):
            if self._store.local_root is not None:
                yield self._store.folder(key)
                continue
            with tempfile.TemporaryDirectory() as folder:
                copy = Path(folder) / PurePosixPath(key).name
                copy.mkdir()
                fs.copy_files(self._store.path(key), str(copy), source_filesystem=self._store.filesystem)
                yield copy

    def save(self, training: Training) -> None:
        """Leave a training as it is now, whole or not at all; all workers take part, rank 0 writes."""
        key = f"{self._key}/checkpoint_{training.step:06d}"
        here = self._store.folder(self._key) if self._store.local_root is not None else None
        if here is not None:
            here.mkdir(parents=True, exist_ok=True)
        # In a local store, on the disk where it stays: a rename makes it whole.
        with tempfile.TemporaryDirectory(dir=here, prefix=".") as folder:
            written = Path(folder) / "checkpoint"
            written.mkdir()
            training.save(written)
            if not is_first():
                return
            self._store.delete(key)  # a damaged one, before which training went on
            if here is not None:
                written.rename(self._store.folder(key))
            else:
                for path in sorted(written.iterdir(), key=lambda path: path.name == CHECKSUMS):
                    self._store.put(path, f"{key}/{path.name}")
        for old in self._keys()[:-NUM_KEPT]:
            self._store.delete(old)

    def _keys(self) -> list[str]:
        """Of those that are whole, oldest first: their checksums are written last."""
        files = (PurePosixPath(key) for key in self._store.list_files(self._key))
        return sorted(str(path.parent) for path in files if path.match(f"{CHECKPOINTS}/*/{CHECKSUMS}"))
