"""What Ray adds to a training of one worker: the stage as a run has it, against its loop in one process.

Both import what they need, load the embedded model, take a few updates of all weights, and write weights and
probes. As in a run, Ray itself was started while something else worked, and is not timed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import US, Answer, BenchError, Benchmark, Peer
from tests.benchmarks.training import make

BARE = "bare_loop"


def equal(folder: Path, answers: Mapping[str, Answer]) -> dict[str, Any]:
    """Both took the same updates, to the last digit."""
    if answers[US] != answers[BARE]:
        raise BenchError(f"losses differ: {answers}")
    rows = json.loads((folder / "rows.json").read_text())["train"]
    return {"tokens": sum(len(row["input_ids"]) for row in rows), **answers[US]}


BENCHMARK = Benchmark(
    name="train_start",
    size=32,
    peers=(Peer(BARE, None),),
    make=make,
    equal=equal,
    overheads={"ray_overhead_s": BARE},
)
