"""What the `tunebook data` commands print; nothing of a row is read as markup or steers a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunebook_data.assemble import Assembled
from tunebook_data.checked import flags_by_reason, rejects_by_reason
from tunebook_data.manifest import size_advice
from tunebook_data.personal_data import mask_reject
from tunebook_data.steps import assembly_steps
from tunebook_spec.data import Data

if TYPE_CHECKING:
    from tunebook_data.shown_rows import ShownRow

FIRST_REJECTS = 10
_COUNTS = {
    "rows_in": "rows",
    "rejects": "rejects",
    "duplicates": "equal",
    "near_duplicates": "near",
    "contaminated": "leaks",
    "capped": "capped",
    "train": "train",
    "validation": "validation",
    "test": "test",
}
# C0 and C1 control characters, and those that turn the direction of what follows.
_STEERING = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
LEFT_OUT = (
    "lengths in tokens (data.checks.max_tokens), the chat template's rendering, the loss-mask audit and the"
    " rehearsed rows"
)


def show_check(made: Assembled, data: Data, console: Console) -> None:
    """Counts by step and by source, the first rejects, and what should be known."""
    _print(_steps(made, data), console)
    _print(_sources(made), console)
    for counts, what in (
        (rejects_by_reason(made.reads), "rejected"),
        (
            {reason: count for reason, count in flags_by_reason(made.flags, data.checks).items() if count},
            "flagged",
        ),
    ):
        if counts:
            _print(_reasons(counts, what), console)
    rejects = [mask_reject(reject) for read in made.reads for reject in read.rejects]
    for reject in islice(rejects, FIRST_REJECTS):
        console.print(plain(f"reject  {reject}"), soft_wrap=True)
    if len(rejects) > FIRST_REJECTS:
        console.print(plain(f"        and {len(rejects) - FIRST_REJECTS} more"))
    for warning in made.cleaned.warnings:
        console.print(plain(f"warning {warning}", "yellow"), soft_wrap=True)
    console.print(plain(f"advice  {size_advice(made.num_train)}"), soft_wrap=True)
    console.print(plain(f"not checked, for want of the base model: {LEFT_OUT}"), soft_wrap=True)
    if data.roles:
        asked = ", ".join(f"data.{key}" for key in ("quality", "augment", "distill") if getattr(data, key))
        console.print(plain(f"left out, since it asks a supporting model: {asked}"), soft_wrap=True)


def show_row(row: ShownRow, console: Console) -> None:
    """A row as training sees it: supervised tokens in colour, or in [[ ]] where there is none."""
    coloured = console.color_system is not None and not console.no_color
    tokens = f"{row.tokens:,} tokens, {row.supervised_tokens:,} supervised"
    tokens += ", of the answer that is not preferred" if row.is_rejected else ""
    console.print(plain(f"{row.source}:{row.line} ({row.task}): {tokens}", "bold"), soft_wrap=True)
    text = Text()
    marked = False
    for span in row.spans:
        if not coloured and span.supervised != marked:
            text.append("[[" if span.supervised else "]]")
            marked = span.supervised
        if span.omitted:
            text.append(f" ... {span.omitted:,} tokens ... ", "yellow")
            continue
        style = f"{'green' if span.supervised else ''} {'bold' if span.special else ''}".strip()
        lines = "".join(span.pieces).split("\n")
        text.append("↵\n".join(plain(line).plain for line in lines), style)
    if marked:
        text.append("]]")
    text.rstrip()
    console.print(text, soft_wrap=True, end="\n\n")


def plain(text: str, style: str = "") -> Text:
    """Text in one line as it is, but characters that could steer a terminal are spelled out."""
    return Text(_STEERING.sub(lambda match: match.group().encode("unicode_escape").decode(), text), style)


def _print(table: Table, console: Console) -> None:
    """Without the blanks that a table pads its lines with, above, below and to the right."""
    for line in console.render_lines(table, pad=False):
        text = Text.assemble(*((segment.text, segment.style or "") for segment in line))
        text.rstrip()
        if text:
            console.print(text)
    console.print()


def _steps(made: Assembled, data: Data) -> Table:
    table = _table("step", "sees", "in", "out", "")
    for step in assembly_steps(made, data):
        table.add_row(step.name, step.sees, f"{step.rows_in:,}", f"{step.rows_out:,}", step.note)
    return table


def _sources(made: Assembled) -> Table:
    table = _table("source", "task", *_COUNTS.values())
    for source in made.sources:
        counts = (f"{getattr(source, name):,}" for name in _COUNTS)
        table.add_row(plain(source.source), source.task, *counts)
    return table


def _reasons(counts: dict[str, int], what: str) -> Table:
    table = _table(f"{what} because", "rows")
    for reason, count in counts.items():
        table.add_row(plain(reason), f"{count:,}")
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    words: Iterable[str] = ("step", "sees", "source", "task", "", "rejected because", "flagged because")
    for column in columns:
        table.add_column(column, justify="left" if column in words else "right")
    return table
