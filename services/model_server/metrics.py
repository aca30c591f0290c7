"""Prometheus metrics of several engines as those of one server."""

from __future__ import annotations

from collections.abc import Sequence

PREFIX = "vllm:"


def merge(texts: Sequence[str]) -> str:
    """The engines' own metrics, family by family; each sample names its model.

    Those of their processes (memory, garbage collection) name none, and are left out.
    """
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for text in texts:
        family = ""
        for line in text.splitlines():
            if line.startswith("# HELP "):
                family = line.split(" ", 3)[2]
                heads.setdefault(family, [line])
            elif line.startswith("# TYPE ") and len(heads.get(family, ())) == 1:
                heads[family].append(line)
            elif line.startswith(PREFIX):
                samples.setdefault(family, []).append(line)
    lines = [line for family, found in samples.items() for line in (*heads[family], *found)]
    return "\n".join([*lines, ""])
