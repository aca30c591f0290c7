"""What a row costs while a data set is made, however many there are."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson
import psutil
import pytest

from tunebook_data.card import CARD, read_card
from tunebook_model import builtin
from tunebook_run.settings import Settings

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


def chat_lines(words: Sequence[str], num_words: int) -> Iterator[bytes]:
    """Without end; every twentieth differs from the one before it in its last word alone."""
    rng = random.Random(0)
    said: list[str] = []
    n = 0
    while True:
        said = [*said[:-1], f"x{n}"] if n % 20 == 1 else rng.choices(words, k=num_words)
        question, answer = " ".join(said[:30]), " ".join(said[30:])
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        yield orjson.dumps({"messages": messages, "topic": f"t{n // 3}"}) + b"\n"
        n += 1


def peak_bytes(folder: Path, num_rows: int) -> int:
    """Of a process that makes a data set of rows of half a kilobyte, of which a twentieth are near copies."""
    folder.mkdir()
    lines = chat_lines([f"w{n}" for n in range(5000)], 80)
    with (folder / "rows.jsonl").open("wb") as file:
        file.writelines(line for line, _ in zip(lines, range(num_rows), strict=False))
    done = subprocess.run(
        [sys.executable, "-c", _MAKE, str(folder)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="maxrss is in KiB on Linux alone")
def test_a_row_costs_less_than_it_would_as_an_object(tmp_path: Path) -> None:
    few, many = (peak_bytes(tmp_path / str(num), num) for num in (FEW, MANY))
    assert (many - few) / (MANY - FEW) < MOST_BYTES_A_ROW


SOURCE_BYTES = 5 * 2**30
MOST_BYTES = 4 * 2**30
_SPEC = """\
version: 1
name: much
problem: There is much to read.
base_model: {kind: builtin, name: smollm2-135m-instruct}
data:
  sources:
    - {kind: file, path: rows.jsonl, task: talk, split: {group_by: topic, test: 0.001, validation: 0.001}}
  dedup: {near: 0.8}
method: {kind: full}
evaluation:
  sets: {talk: {task: talk, metrics: [exact_match]}}
  gates: [{metric: talk.exact_match, at_least: 0.5}]
"""
_WORDS = """
about above after again air all along also always and animal answer any around ask away back because
before begin below between big book both boy but call came can car carry change children city close come
could country cut day did different does down draw each earth eat end enough even every example eye face
family far father feet few find first follow food for form found four from get girl give good great group
grow had hand hard has have head hear help here high him his home house how idea important into its just
keep kind know land large last late learn leave left letter life light like line list little live long
look made make man many may mean men might mile more most mother mountain move much must name near need
never new next night not now number off often old once one only open other our out over own page paper
part people picture place plant play point put question quick read really right river run
""".split()


@pytest.mark.soak
@pytest.mark.timeout(12 * 3600)
@pytest.mark.skipif(
    not (Settings.read().assets_dir / "models" / builtin.NAME).is_dir(), reason="make setup has not run"
)
def test_five_gigabytes_are_prepared_within_four(tmp_path: Path) -> None:
    """By the embedded model's tokenizer, and with everything that the run starts."""
    (tmp_path / "much.yaml").write_text(_SPEC)
    lines = chat_lines(_WORDS, 180)
    num_rows = num_bytes = 0
    with (tmp_path / "rows.jsonl").open("wb") as file:
        while num_bytes < SOURCE_BYTES:
            num_bytes += file.write(next(lines))
            num_rows += 1
    places = {"TUNEBOOK_STORAGE_URL": tmp_path / "runs", "TUNEBOOK_CACHE_DIR": tmp_path / "cache"}
    command = [sys.executable, "-m", "tunebook_cli", "run", "much.yaml", "--until", "prepare"]
    environment = {**os.environ, **{name: str(path) for name, path in places.items()}}
    with subprocess.Popen(command, cwd=tmp_path, env=environment) as run:
        peak = 0
        while run.poll() is None:
            peak = max(peak, tree_bytes(run.pid))
            time.sleep(1)
    assert run.returncode == 0
    (card,) = (tmp_path / "runs").rglob(CARD)
    (source,) = read_card(card.parent).manifest.sources
    assert source.rows_in == source.accounted == num_rows
    assert source.near_duplicates > num_rows / 30
    assert peak < MOST_BYTES


def tree_bytes(pid: int) -> int:
    """Memory of a process and all that it has started, what they share counted once."""
    total = 0
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for each in family:
        try:
            total += each.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total
