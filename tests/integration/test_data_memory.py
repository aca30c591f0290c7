"""What a row costs while a data set is made, however many there are."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

FEW, MANY = 15_000, 45_000
MOST_BYTES_A_ROW = 1_000
_MAKE = """
import resource, sys
from pathlib import Path
from tunebook_data.assemble import assemble
from tunebook_data.inputs import PrepareInputs
from tunebook_data.workers import LocalWorkers
from tunebook_spec.data import Data

source = {"kind": "file", "path": "rows.jsonl", "task": "task", "split": {"group_by": "topic"}}
data = Data.model_validate({"sources": [source], "dedup": {"near": 0.8}})
folder = Path(sys.argv[1])
made = assemble(
    PrepareInputs(data=data, seed=0, chat_template_kwargs={}, suites=(), questions=(), texts=()),
    renderer=None, spec_dir=folder, assets_dir=folder, folder=folder, advance=lambda *_: None,
)
train = made.stored_splits()["train"]
assert sum(1 for _ in train) == len(train)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10)
"""


def peak_bytes(folder: Path, num_rows: int) -> int:
    """Of a process that makes a data set of rows of half a kilobyte, of which a twentieth are copies."""
    folder.mkdir()
    rng = random.Random(0)
    words = [f"w{n}" for n in range(5000)]
    said: list[str] = []
    with (folder / "rows.jsonl").open("wb") as file:
        for n in range(num_rows):
            said = [*said[:-1], f"x{n}"] if n % 20 == 1 else rng.choices(words, k=80)
            question, answer = " ".join(said[:30]), " ".join(said[30:])
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            file.write(orjson.dumps({"messages": messages, "topic": f"t{n // 3}"}) + b"\n")
    done = subprocess.run(
        [sys.executable, "-c", _MAKE, str(folder)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="maxrss is in KiB on Linux alone")
def test_a_row_costs_less_than_it_would_as_an_object(tmp_path: Path) -> None:
    few, many = (peak_bytes(tmp_path / str(num), num) for num in (FEW, MANY))
    assert (many - few) / (MANY - FEW) < MOST_BYTES_A_ROW
