"""What training workers are told, and where they leave what they make; light, for all who only pass it on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tunebook_model.shared_model import SharedModel
from tunebook_run.stages import SCRATCH
from tunebook_run.store import Store
from tunebook_train.inputs import TrainInputs

CHECKPOINTS, RAY_TRAIN = SCRATCH
"""What training goes on from, and what Ray Train writes down of its own."""
METRICS = "metrics.jsonl"
WEIGHTS = "weights"
"""What training leaves where it trained all weights."""
ADAPTER = "adapter"
"""What it leaves where it trained an adapter: a PEFT folder."""
QUANTISED = "quantised.json"
"""What it leaves beside an adapter of a quantised base."""


@dataclass(frozen=True)
class Job:
    """What a worker is told; everything else it reads from the store."""

    inputs: TrainInputs
    digest: str
    storage_url: str
    stage_key: str
    data_key: str
    model_name: str
    model_revision: str | None
    model: SharedModel
    """The base model."""
    cpus_per_worker: int


def read_metrics(store: Store, stage_key: str) -> list[dict[str, Any]]:
    """What rank 0 has told of a training so far, one entry a step or validation; the first are its facts."""
    try:
        content = store.read(f"{stage_key}/{METRICS}")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in content.splitlines()]
