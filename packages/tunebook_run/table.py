"""Tables for the terminal, as plain lines that take the width that they need."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

MAX_WIDTH = 240
"""Characters in a line; no table that anyone has made yet is wider."""


def new_table(*columns: str, right: Sequence[str] = ()) -> Table:
    """A table with these columns; the text of those in `right` is aligned there."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=True)
    return table


def add_row(table: Table, cells: Iterable[str]) -> None:
    """Cells as they are: nothing in them is markup."""
    table.add_row(*map(Text, cells))


def lines(table: Table) -> list[str]:
    """The table without blank lines and trailing blanks."""
    buffer = io.StringIO()
    Console(file=buffer, width=MAX_WIDTH, no_color=True).print(table)
    return [line.rstrip() for line in buffer.getvalue().splitlines() if line.strip()]
