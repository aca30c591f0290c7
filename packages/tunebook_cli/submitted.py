"""`python -m tunebook_cli.submitted`: the command, on the cluster that a run was submitted to."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

ENVIRONMENT = "environment.json"
"""What is sent along for the environment. Ray shows a job's `env_vars` to whoever asks, and writes them into
its logs, so that keys of a store or an endpoint do not belong there."""


def take_environment() -> None:
    """Make what was sent along the environment of this process, whichever of the job's it is."""
    file = Path(__file__).parents[1] / ENVIRONMENT
    file.chmod(0o600)
    os.environ |= json.loads(file.read_text())


if __name__ == "__main__":
    take_environment()
    from tunebook_cli.main import main

    sys.exit(main())
