"""`tunebook top`: a run in the terminal, while it goes on."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from tunebook_cli.runs import RunArgument
from tunebook_run.record import RunRecord, find_run
from tunebook_run.settings import Settings
from tunebook_run.store import Store
from tunebook_train.job import METRICS, read_metrics
from tunebook_train.watch import training_lines

ANSWERS = ("answers.jsonl", "rows.jsonl", "judgements.jsonl")
"""What stages that ask a model add to, a line an answer."""


def top(
    run: RunArgument,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.", metavar="S")] = 1.0,
) -> None:
    """Watch a run: its stages, and the steps of its training. Ends with the run, or with Ctrl-C.

    Where stdout is no terminal, it says once how far the run is.
    """
    settings = Settings.read()
    store = Store(settings.storage_url, settings.cache_dir)
    record = find_run(store, run)
    if not sys.stdout.isatty():
        typer.echo("\n".join(screen(store, record)))
        return
    with Live(console=Console(), refresh_per_second=4) as live:
        while True:
            live.update(Group(*map(Text, screen(store, record))), refresh=True)
            if record.finished_at is not None:
                return
            try:
                time.sleep(every)
            except KeyboardInterrupt:
                return
            record = find_run(store, record.name)


def screen(store: Store, record: RunRecord) -> list[str]:
    """A run as it is now, line by line."""
    until = record.finished_at or datetime.now(UTC)
    passed = (until - record.started_at).total_seconds()
    lines = [f"{record.name}  {record.status}, {passed:.0f} s  profile {record.profile or '-'}", ""]
    for stage in record.stages:
        told = "made by an earlier run" if stage.skipped else f"done in {stage.seconds:.1f} s"
        lines.append(f"  {stage.name:<18} {told}")
    if record.under_way is not None:
        name = record.under_way.rpartition("/")[2].rpartition("-")[0]
        lines.append(f"> {name:<18} {', '.join(_under_way(store, record.under_way)) or 'under way'}")
    if training := training_lines(read_metrics(store, _training(record))) if _training(record) else []:
        lines += ["", *training]
    if record.verdict:
        lines += ["", record.verdict[-1]]
    return lines


def _training(record: RunRecord) -> str:
    """Key of the stage that trains or has trained; empty where there is none yet."""
    keys = [*(stage.key for stage in record.stages), record.under_way or ""]
    return next((key for key in keys if key.rpartition("/")[2].startswith("train-")), "")


def _under_way(store: Store, key: str) -> Iterator[str]:
    """What the stage has left so far, and how long ago."""
    for name in (*ANSWERS, METRICS):
        since = store.seconds_since(f"{key}/{name}")
        if since is None:
            continue
        if name in ANSWERS:
            num = store.read(f"{key}/{name}").count(b"\n")
            yield f"{num} answers" if name == ANSWERS[0] else f"{num} lines of {name}"
        yield f"its last word {since:.0f} s ago"
