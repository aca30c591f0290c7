"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tunebook_run.log import console

logger = logging.getLogger(__name__)

LINE_EVERY_S = 15.0


class Advance(Protocol):
    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Say that `done` of `total` is done, and what is worth seeing with it."""


@contextmanager
def progress(name: str) -> Iterator[Advance]:
    """Report how far a stage is; the caller says so as often as it likes."""
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, TextColumn("{task.fields[note]}"), console=console, transient=True) as bar:
            task = bar.add_task(name, total=None, note="")

            def draw(done: int, total: int, note: str = "") -> None:
                bar.update(task, completed=done, total=total, note=note)

            yield draw
        return
    spoken = time.monotonic()
    first: tuple[int, float] | None = None

    def speak(done: int, total: int, note: str = "") -> None:
        nonlocal spoken, first
        now = time.monotonic()
        # What an earlier attempt had done says nothing of the pace of this one.
        first = first or (done, now)
        if now - spoken < LINE_EVERY_S or done == first[0]:
            return
        spoken = now
        left = (now - first[1]) / (done - first[0]) * (total - done)
        logger.info("%s %d/%d eta=%.0fs %s", name, done, total, left, note)

    yield speak
