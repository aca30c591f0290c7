import hashlib
import multiprocessing
from collections import Counter
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from contender import compete

from tunebook_data.checked import CheckedSource, read_whole
from tunebook_data.inputs import PrepareInputs
from tunebook_data.rejects import Duplicate
from tunebook_data.split import SourceRows, drop_duplicates
from tunebook_spec.data import Data

# As in a run: stages and their workers are forked from a process that has imported what they need.
multiprocessing.get_context("forkserver").set_forkserver_preload(
    ["tunebook_cli.preload_transformers", "tunebook_cli.preload_loops"]
)


def work(folder: Path) -> tuple[CheckedSource, list[Duplicate]]:
    data = Data.model_validate(
        {
            "sources": [{"kind": "file", "path": "rows.jsonl", "task": "task"}],
            "checks": {"refusals": "allow", "personal_data": "allow"},
        }
    )
    inputs = PrepareInputs(data=data, seed=0, chat_template_kwargs={}, suites=(), questions=(), texts=())
    read = read_whole(data.sources[0], inputs, folder, folder)
    _, duplicates = drop_duplicates([SourceRows(read.name, read.source.split, read.rows)])
    return read, duplicates


def answer(found: tuple[CheckedSource, list[Duplicate]]) -> dict[str, Any]:
    read, duplicates = found
    rejects = [f"{reject.line} {reject.reason}" for reject in read.rejects]
    return {
        "lines": read.num_items,
        "rejects": dict(sorted(Counter(reject.reason for reject in read.rejects).items())),
        "rejects_sha256": hashlib.sha256("\n".join(sorted(rejects)).encode()).hexdigest()[:16],
        "duplicates": len(duplicates),
        "duplicates_sha256": hashlib.sha256(
            str(sorted(each.line for each in duplicates)).encode()
        ).hexdigest()[:16],
    }


if __name__ == "__main__":
    forkserver.ensure_running()
    warm = multiprocessing.get_context("forkserver").Process(target=int)
    warm.start()
    warm.join()
    compete(work, answer, "numba", "orjson", "xxhash", "numpy")
