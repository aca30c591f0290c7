import os
from pathlib import Path
from typing import Any

import orjson
from contender import compete
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

CORES = len(os.sched_getaffinity(0))


def work(folder: Path) -> Path:
    """The four steps of its example, with a worker on each core."""
    made = Path.cwd()
    config = MinhashConfig(n_grams=3, num_buckets=14, hashes_per_bucket=8)
    # One task a file is its unit of work, so that each core gets one.
    shards = _shards(folder / "documents.jsonl", made / "shards")
    reader = JsonlReader(str(shards), text_key="completion")
    sigs, pairs, removed, kept = (str(made / name) for name in ("sigs", "pairs", "removed", "kept"))
    steps: list[tuple[list[Any], int]] = [
        ([reader, MinhashDedupSignature(sigs, config)], CORES),
        ([MinhashDedupBuckets(sigs, pairs, config=config)], config.num_buckets),
        ([MinhashDedupCluster(pairs, removed, config)], 1),
        ([reader, MinhashDedupFilter(removed), JsonlWriter(kept, compression=None)], CORES),
    ]
    for number, (pipeline, tasks) in enumerate(steps):
        logs = str(made / f"logs{number}")
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=CORES, logging_dir=logs).run()
    return made


def _shards(path: Path, folder: Path) -> Path:
    folder.mkdir()
    lines = path.read_bytes().splitlines(keepends=True)
    share = -(-len(lines) // CORES)
    for core in range(CORES):
        (folder / f"{core}.jsonl").write_bytes(b"".join(lines[core * share : (core + 1) * share]))
    return folder


def answer(made: Path) -> dict[str, Any]:
    def ids(folder: str) -> set[int]:
        lines = (line for path in (made / folder).glob("*.jsonl") for line in path.open("rb"))
        return {int(orjson.loads(line)["id"]) for line in lines}

    return {"dropped": sorted(ids("shards") - ids("kept"))}


if __name__ == "__main__":
    compete(work, answer, "datatrove")
