"""Resolve pyproject.toml anew and write infra/locks: `python3 infra/lock.py cpu`, or `gpu`.

Run it with the Python that the locks are for (3.11). `gpu` needs `uv` on the PATH: it resolves from metadata
alone, where pip would download the gigabytes of CUDA libraries.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "infra" / "locks"
BUILD = ("hatchling", "editables")
"""What an editable install of the project needs at hand, since set-up does without build isolation."""
LEFT_OUT = {"cpu": {"torchvision", "torchaudio", "torchcodec", "triton", "tunebook"}, "gpu": set[str]()}


def resolve_cpu() -> dict[str, str]:
    """Names and versions, as pip resolves them for this Python and platform."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        options = ["--quiet", "--dry-run", "--ignore-installed", "--report", str(report)]
        subprocess.run(
            [sys.executable, "-m", "pip", "install", *options, f"{ROOT}[cpu,dev]", *BUILD], check=True
        )
        installed = json.loads(report.read_text())["install"]
    return {normalised(item["metadata"]["name"]): item["metadata"]["version"] for item in installed}


def resolve_gpu() -> dict[str, str]:
    """Names and versions, as uv resolves them for Python 3.11 on Linux x86-64."""
    target = ["--python-version", "3.11", "--python-platform", "x86_64-unknown-linux-gnu"]
    options = ["--quiet", "--no-header", "--no-annotate", "--extra", "gpu", "--extra", "dev"]
    done = subprocess.run(
        ["uv", "pip", "compile", *target, *options, "pyproject.toml", "-"],
        cwd=ROOT,
        input="\n".join(BUILD),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    pins = [line.split("==") for line in done.stdout.splitlines() if "==" in line]
    return {normalised(name): version for name, version in pins}


def normalised(name: str) -> str:
    """A distribution's name as PEP 503 spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def write_lock(extra: str) -> None:
    """Write the lock under the header that it already has."""
    path = LOCKS / f"{extra}.txt"
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    resolved = resolve_cpu() if extra == "cpu" else resolve_gpu()
    pins = [f"{name}=={resolved[name]}" for name in sorted(resolved) if name not in LEFT_OUT[extra]]
    path.write_text("\n".join([*header, *pins]) + "\n")


if __name__ == "__main__":
    if sys.argv[1:] not in (["cpu"], ["gpu"]):
        sys.exit("usage: python3 infra/lock.py cpu|gpu")
    write_lock(sys.argv[1])
