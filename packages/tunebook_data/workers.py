"""One pure function over many chunks of data, in their order, by whoever has a core for it.

What fits this machine is done on its own cores; where a Ray cluster is configured, the same functions are
stages of Ray Data. Which it is decides no byte of what comes out.

What is asked of teachers is no such function: their calls go out from the one process that owns the budget
and the answers kept, with as many under way at once as their settings allow. A call waits and does not
compute, so that no host is missed for it; and no two workers can ask, or pay for, the same. What teachers
answer is checked, rendered and compared by the workers.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain, islice
from typing import Any, Protocol, TypeVar

Chunk = TypeVar("Chunk")
Made = TypeVar("Made")
Item = TypeVar("Item")

_UNDER_WAY = 3
"""Chunks handed to each core ahead of time."""


class Workers(Protocol):
    @property
    def are_here(self) -> bool:
        """Whether they can open what lies on this machine, and cost nothing to hand things to."""
        ...

    def map(
        self, function: Callable[[Chunk], Made], chunks: Iterable[Chunk], *, pool_from: int
    ) -> Iterator[Made]:
        """What a function makes of each chunk, in the order of the chunks, of which few are held at once.

        Args:
            function: pure, and picklable like all that goes in and comes out.
            chunks: each worth some 10 ms at least.
            pool_from: so many of them are worth a second process on this machine.
        """
        ...


class LocalWorkers:
    """The cores of this machine."""

    are_here = True

    def map(
        self, function: Callable[[Chunk], Made], chunks: Iterable[Chunk], *, pool_from: int
    ) -> Iterator[Made]:
        left = iter(chunks)
        first = [*islice(left, pool_from)]
        cores = len(os.sched_getaffinity(0))
        whole = chain(first, left)
        if len(first) < pool_from or cores == 1:
            return map(function, whole)
        return _in_pool(pickle.dumps(function), whole, cores)


HERE = LocalWorkers()


@contextmanager
def open_workers(ray_address: str | None) -> Iterator[Workers]:
    """Those of a Ray cluster; none: those of this machine.

    Raises:
        StageError: there is no such cluster.
    """
    if ray_address is None:
        yield HERE
        return
    from tunebook_data.ray_workers import connected

    with connected(ray_address) as workers:
        yield workers


def batched(items: Iterable[Item], size: int) -> Iterator[Sequence[Item]]:
    """Items in their order, so many at a time; the last ones may be fewer."""
    left = iter(items)
    while batch := [*islice(left, size)]:
        yield batch


def in_threads(function: Callable[[Chunk], Made], chunks: Iterable[Chunk]) -> Iterator[Made]:
    """The same on the cores of this machine, for a function that leaves Python while it computes."""
    cores = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(cores) as pool:
        yield from _in_order(lambda chunk: pool.submit(function, chunk), chunks, cores)


def _in_pool(function: bytes, chunks: Iterable[Any], cores: int) -> Iterator[Any]:
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(cores, mp_context=context) as pool:
        yield from _in_order(lambda chunk: pool.submit(_apply, function, chunk), chunks, cores)


def _in_order(submit: Callable[[Chunk], Future[Made]], chunks: Iterable[Chunk], cores: int) -> Iterator[Made]:
    under_way: deque[Future[Made]] = deque()
    for chunk in chunks:
        under_way.append(submit(chunk))
        if len(under_way) >= _UNDER_WAY * cores:
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()


def _apply(function: bytes, chunk: Any) -> Any:
    return unpickled(function)(chunk)


@lru_cache(maxsize=4)
def unpickled(function: bytes) -> Callable[[Any], Any]:
    """A function as it was pickled, which may hold a tokenizer: made once a process, not once a chunk."""
    made: Callable[[Any], Any] = pickle.loads(function)
    return made
