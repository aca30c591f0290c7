"""What every contender's script has in common; standard library only, since peers live apart."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any


def compete(work: Callable[[Path], Any], answer: Callable[[Any], dict[str, Any]], *packages: str) -> None:
    """Time `work` on the input folder of the command line; write what came of it as JSON.

    Args:
        work: what is timed.
        answer: makes of its result what is compared, untimed.
        packages: whose versions are told.
    """
    folder, out = map(Path, sys.argv[1:])
    started = time.perf_counter()
    result = work(folder)
    seconds = time.perf_counter() - started
    told = {
        "seconds": seconds,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "answer": answer(result),
        "versions": {package: version(package) for package in packages},
    }
    out.write_text(json.dumps(told))
