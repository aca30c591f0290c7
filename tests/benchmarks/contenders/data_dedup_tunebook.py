from pathlib import Path
from typing import Any

from contender import compete

import tunebook_cli.preload_loops  # noqa: F401 - as in the process that stages of a run are forked from
from tunebook_data.cleaning import clean_train
from tunebook_data.rows import Row
from tunebook_data.sources import read_source
from tunebook_spec.data import Data, FileSource


def work(folder: Path) -> tuple[Row, ...]:
    data = Data.model_validate(
        {
            "sources": [{"kind": "file", "path": "documents.jsonl", "task": "task"}],
            "dedup": {"near": 0.5},
            "decontaminate": None,
        }
    )
    (source,) = data.sources
    assert isinstance(source, FileSource)
    parts = read_source(source, system=None, spec_dir=folder, assets_dir=folder, seed=0)
    rows = [item for part in parts for item in part.items if isinstance(item, Row)]
    cleaned = clean_train(rows, [], data)
    return tuple(rows[i] for i in cleaned.near_duplicates)


def answer(dropped: tuple[Row, ...]) -> dict[str, Any]:
    return {"dropped": [int(row.meta["id"]) for row in dropped]}


if __name__ == "__main__":
    compete(work, answer, "numba", "numpy", "orjson")
