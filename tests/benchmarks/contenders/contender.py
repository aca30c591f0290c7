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
    before, started = _cpu_seconds(), time.perf_counter()
    result = work(folder)
    seconds, cpu_seconds = time.perf_counter() - started, _cpu_seconds() - before
    told = {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_mib": max(_usage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        / 1024,
        "answer": answer(result),
        "versions": {package: version(package) for package in packages},
    }
    out.write_text(json.dumps(told))


def _usage(who: int) -> resource.struct_rusage:
    return resource.getrusage(who)


def _cpu_seconds() -> float:
    usages = map(_usage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
