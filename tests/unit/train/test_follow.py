"""How far a training is, as who started it follows it."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from tunebook_run.store import Store
from tunebook_spec.errors import StoreError
from tunebook_train import train

FACTS = {"precision": "float32", "trainable_parameters": 1, "parameters": 2, "num_steps": 4, "num_workers": 1}
STEP = {"step": 1, "loss": 2.0, "grad_norm": 1.0, "tokens_per_s": 10.0, "mfu": 0.1, "peak_memory_gib": 0.5}


class Overloaded(Store):
    """Answers at the third attempt, as a store may that says 503 for a while."""

    attempts = 0

    def read(self, key: str) -> bytes:
        self.attempts += 1
        if self.attempts < 3:
            raise StoreError("Slow Down")
        return super().read(key)


def test_an_overloaded_store_delays_what_is_told_of_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "FOLLOW_S", 0.01)
    store = Overloaded(str(tmp_path / "runs"), tmp_path / "cache")
    store.write("tiny/train/metrics.jsonl", "\n".join(map(json.dumps, (FACTS, STEP))).encode())
    told = threading.Event()
    with train._followed(store, "tiny/train", 1, lambda done, total, note="": told.set()):
        assert told.wait(10)
    assert store.attempts >= 3
