from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cli.test_data_commands import SPEC, write

HEAVY = ("torch", "ray", "transformers", "vllm", "openai")


@pytest.mark.parametrize("package", ["tunebook_spec", "tunebook_run"])
def test_importing_it_loads_no_heavy_library(package: str) -> None:
    code = (
        "import importlib, pkgutil, sys\n"
        f"package = importlib.import_module({package!r})\n"
        "for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "    importlib.import_module(module.name)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_a_cluster_no_ray_is_loaded() -> None:
    code = (
        "import sys\nfrom tunebook_data.workers import open_workers\nimport tunebook_data.prepare\n"
        "with open_workers(None) as who: print(who.are_here, 'ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True False\n"


@pytest.mark.parametrize(
    "modules",
    [
        "tunebook_data.fingerprint",
        "tunebook_eval.report, tunebook_eval.verified, tunebook_eval.compare, tunebook_eval.decide",
    ],
    ids=["a look at sources", "a look at runs"],
)
def test_who_only_looks_loads_no_heavy_library(modules: str) -> None:
    heavy = f"[name for name in {HEAVY!r} if name in sys.modules]"
    code = f"import sys, {modules}; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_line_itself_loads_no_library_of_a_stage() -> None:
    names = (*HEAVY, "scipy", "matplotlib", "mlflow", "sqlalchemy")
    heavy = f"[name for name in {names!r} if name in sys.modules]"
    code = f"import sys, tunebook_cli.main, tunebook_cli.runner; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_check_of_data_loads_no_model_library(tmp_path: Path) -> None:
    (tmp_path / "colours.yaml").write_text(SPEC.format(model="absent"))
    write(tmp_path)
    code = (
        "import sys; from tunebook_cli.main import main\n"
        "status = main(['data', 'check', 'colours.yaml'])\n"
        "print(status, [name for name in ('torch', 'transformers', 'ray', 'vllm') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 []"
