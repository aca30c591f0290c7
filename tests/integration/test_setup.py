from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra import bootstrap
from infra.bootstrap import Project, SetupError

NO_INDEX = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}


@pytest.fixture(scope="module")
def empty_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an environment of its own, so that pip cannot reach the one that runs the tests."""
    root = tmp_path_factory.mktemp("checkout")
    bootstrap.make_venv(Project(root, "cpu"))
    return root


@pytest.mark.parametrize(
    ("pin", "cure"),
    [
        ("torch==2.13.0+cpu", "a PyTorch CPU index is missing. Set PIP_EXTRA_INDEX_URL to one"),
        ("no-such-package==1.0", "Add one with PIP_EXTRA_INDEX_URL, or resolve anew"),
    ],
)
def test_a_package_that_no_index_has_is_named_with_the_way_out(
    empty_environment: Path, monkeypatch: pytest.MonkeyPatch, pin: str, cure: str
) -> None:
    for name, value in NO_INDEX.items():
        monkeypatch.setenv(name, value)
    project = Project(empty_environment, "cpu")
    project.lock.parent.mkdir(parents=True, exist_ok=True)
    project.lock.write_text(f"# pins\n{pin}\n")
    with pytest.raises(SetupError) as failure:
        bootstrap.install_pins(project)
    assert "step `packages` failed" in str(failure.value)
    assert pin in str(failure.value)
    assert cure in str(failure.value)


PREPARED = """
import json, sys
from pathlib import Path
from numba.core.dispatcher import Dispatcher
from tests.unit.data.preparing import prepared
from tunebook_data import minhash, ngrams, plain_lines, scan

scan.LOOKED_AT_BYTES = 0
folder, model = map(Path, sys.argv[1:])
with (folder / "rows.jsonl").open("w") as file:
    for n in range(50):
        asked = {"role": "user", "content": f"What is {n} and {n + 1}?"}
        said = {"role": "assistant", "content": f"It is {n} and a bit more."}
        print(json.dumps({"messages": [asked, said], "topic": str(n)}), file=file)
source = {"kind": "file", "path": "rows.jsonl", "task": "task", "split": {"group_by": "topic"}}
checks = {"personal_data": "allow", "refusals": "allow"}
prepared(folder, model, {"sources": [source], "checks": checks, "dedup": {"near": 0.8}})
for module in (minhash, ngrams, plain_lines):
    loops = [each.stats for each in vars(module).values() if isinstance(each, Dispatcher)]
    made, found = (sum(each[kind].total() for each in loops) for kind in (2, 1))
    print(module.__name__, made, found > 0)
"""


def test_set_up_leaves_no_loop_over_data_to_compile(tmp_path: Path, tiny_llama: Path) -> None:
    path = os.pathsep.join([str(Path(bootstrap.__file__).parents[1]), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", PREPARED, str(tmp_path), str(tiny_llama)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    told = [f"tunebook_data.{name} 0 True" for name in ("minhash", "ngrams", "plain_lines")]
    assert done.stdout.splitlines()[-3:] == told, done.stderr
