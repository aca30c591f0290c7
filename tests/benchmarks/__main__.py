"""Run one benchmark: `make bench NAME=data_dedup`. The last line printed is a JSON object."""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module

from tests.benchmarks.harness import BenchError, Benchmark, run

NAMES = (
    "data_dedup",
    "data_validate",
    "generate",
    "judge",
    "train_full",
    "train_lora",
    "train_memory",
    "train_start",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--size", type=int, help="rows of the input; default: the benchmark's own")
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    benchmark: Benchmark = import_module(f"tests.benchmarks.{chosen.name}").BENCHMARK
    try:
        size = chosen.size or benchmark.size
        made = run(benchmark, size=size, repeats=chosen.repeats, say=_say)
    except BenchError as error:
        _say(f"error: {error}")
        return 1
    sys.stdout.write(json.dumps(made) + "\n")
    return 0


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
