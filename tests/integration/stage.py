"""A stage in a process of its own, as in a run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

from tunebook_cli.request import Request

_CODE = (
    "from tunebook_cli import stage_process; from tunebook_cli.request import Request;"
    "sys.exit(stage_process.main(Request.model_validate_json(sys.stdin.read())))"
)


def start(request: Request, environment: Mapping[str, str], first: str = "") -> subprocess.Popen[str]:
    """Start it; `first` is code that runs before it."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"import sys; {first}{_CODE}"],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(request.model_dump_json())
    process.stdin.close()
    process.stdin = None
    return process


def until(seen: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for what happens while it runs."""
    deadline = time.monotonic() + 300
    while not seen():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.005)
