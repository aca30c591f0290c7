"""Workers on the hosts of a Ray cluster, which share nothing with this one: chunks carry all they need.

A map is a stage of Ray Data whose rows are numbered chunks. Ray Data hands results over as they come; they
are sorted by number, a window of chunks at a time, so that neither end ever holds a whole data set.
"""

from __future__ import annotations

import logging
import pickle
import platform
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import ray
import ray.data

from tunebook_data.workers import Chunk, Made, unpickled
from tunebook_run.ray_cluster import connect
from tunebook_spec.errors import StageError, TunebookError

_WINDOW_BYTES = 256 << 20
_BLOCK_BYTES = 4 << 20
"""What one task is given where there is much; where there is little, every core still gets some."""
_TASKS_PER_CORE = 4
_LIBRARIES = ("jinja2", "jsonschema", "numba", "orjson", "tokenizers", "transformers", "tunebook")
"""Those that decide what comes out."""
_SCHEMA = pa.schema([("number", pa.int64()), ("pickle", pa.large_binary())])


@dataclass(frozen=True)
class RayWorkers:
    num_cores: int
    """Of all hosts."""
    are_here = False

    def map(
        self, function: Callable[[Chunk], Made], chunks: Iterable[Chunk], *, pool_from: int
    ) -> Iterator[Made]:
        packed = pickle.dumps(function)
        for window in _windows(map(pickle.dumps, chunks)):
            for made in self._done(packed, window):
                if isinstance(made, _Raised):
                    raise made.error
                yield made

    def _done(self, function: bytes, window: list[bytes]) -> Iterator[Any]:
        if len(window) == 1:
            return iter([_tried(function, window[0])])
        num_tasks = max(_TASKS_PER_CORE * self.num_cores, sum(map(len, window)) // _BLOCK_BYTES)
        rows = [{"number": number, "pickle": chunk} for number, chunk in enumerate(window)]
        stage = ray.data.from_items(rows, override_num_blocks=min(num_tasks, len(rows))).map_batches(
            apply,
            fn_kwargs={"function": function, "expected": versions()},
            batch_format="pyarrow",
            batch_size=None,
        )
        results = {row["number"]: row["pickle"] for row in stage.iter_rows()}
        return (pickle.loads(results.pop(number)) for number in range(len(window)))


@contextmanager
def connected(address: str) -> Iterator[RayWorkers]:
    """The workers of a running cluster, for as long as the context is open.

    Raises:
        StageError: there is no such cluster.
    """
    connect(address, "prepare data on this machine alone")
    try:
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        # None yet, where hosts come only when there is work.
        yield RayWorkers(max(1, int(ray.cluster_resources().get("CPU", 0))))
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class _Raised:
    """An error in place of what a chunk makes: raised in the chunk's turn, without Ray's words around it."""

    error: TunebookError


def _windows(chunks: Iterable[bytes]) -> Iterator[list[bytes]]:
    window: list[bytes] = []
    num_bytes = 0
    for chunk in chunks:
        window.append(chunk)
        num_bytes += len(chunk)
        if num_bytes >= _WINDOW_BYTES:
            yield window
            window, num_bytes = [], 0
    if window:
        yield window


def apply(batch: pa.Table, function: bytes, expected: dict[str, str]) -> pa.Table:
    """What a task makes of its chunks; on a host that has other versions, that it may not."""
    if versions() == expected:
        made = [_tried(function, chunk.as_py()) for chunk in batch["pickle"]]
    else:
        made = [_refusal(expected)] * len(batch)
    return pa.table([batch["number"], pa.array(map(pickle.dumps, made), pa.large_binary())], schema=_SCHEMA)


def _refusal(expected: dict[str, str]) -> _Raised:
    other = [f"{name} {it}, not {expected[name]}" for name, it in versions().items() if it != expected[name]]
    return _Raised(
        StageError(
            f"host {socket.gethostname()} of the Ray cluster has {', '.join(other)}: its rows might differ;"
            " install the same on all hosts, or unset TUNEBOOK_RAY_ADDRESS to prepare on this machine alone"
        )
    )


@cache
def versions() -> dict[str, str]:
    """Of what decides, on this host, what is made of a chunk."""
    return {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}}


def _tried(function: bytes, chunk: bytes) -> Any:
    try:
        return unpickled(function)(pickle.loads(chunk))
    except TunebookError as error:
        return _Raised(error)
