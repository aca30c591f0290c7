from __future__ import annotations

import subprocess
import sys

import pytest

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
