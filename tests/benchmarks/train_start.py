"""What the stage adds to a training of one worker, with a worker of Ray's and without, to its bare loop.

All import what they need, load the embedded model, take a few updates of all weights, and write weights and
probes. `tunebook` has Ray start the worker, as on a cluster; Ray itself was started while something else
worked, and is not timed. `own_process` is what a run of one worker on one machine is: the stage
trains by itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import US, Answer, BenchError, Benchmark, Peer
from tests.benchmarks.training import make

BARE = "bare_loop"
ALONE = "own_process"


def equal(folder: Path, answers: Mapping[str, Answer]) -> dict[str, Any]:
    """All took the same updates, to the last digit."""
    if any(each != answers[BARE] for each in answers.values()):
        raise BenchError(f"losses differ: {answers}")
    rows = json.loads((folder / "rows.json").read_text())["train"]
    return {"tokens": sum(len(row["input_ids"]) for row in rows), **answers[US]}


BENCHMARK = Benchmark(
    name="train_start",
    size=32,
    peers=(Peer(BARE, None), Peer(ALONE, None)),
    make=make,
    equal=equal,
    overheads={"ray_overhead_s": (US, BARE), "stage_overhead_s": (ALONE, BARE)},
)
