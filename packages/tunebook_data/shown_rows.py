"""A few rows as training sees them, token by token: for the data card and for `tunebook data preview`."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import groupby, islice

from tunebook_data.checks import personal_data, render_or_fault
from tunebook_data.rejects import Fault
from tunebook_data.rows import Row
from tunebook_model.pieces import Piece, pieces
from tunebook_model.render import Rendered, Renderer
from tunebook_spec.data import Checks
from tunebook_spec.fields import Frozen

_MAX_PIECES = 400
_FIRST_PIECES = 150
"""Of a longer row, its beginning and its end are shown."""
_LOOKED_AT_PER_ROW = 10
_HELD_PER_ROW = 10


class Span(Frozen):
    """Neighbours of one kind."""

    pieces: tuple[str, ...]
    """Each one token, or the few that make one character between them."""
    supervised: bool
    special: bool
    """Whether they are tokens of the chat template and not of the text."""
    omitted: int = 0
    """Pieces left out here; there are no others in such a span."""


class ShownRow(Frozen):
    source: str
    line: int
    task: str
    tokens: int
    supervised_tokens: int
    alternatives: int | None
    """Tokens whose probabilities are the target of each supervised place; None: the token itself is."""
    spans: tuple[Span, ...]
    is_rejected: bool = False
    """Whether the answer is one that another is preferred to."""


def drawn_by_task(rows: Sequence[Row], num_rows: int) -> dict[str, list[int]]:
    """Of each task the numbers of so many rows, by the hash of their id."""
    drawn: dict[str, list[tuple[bytes, int]]] = defaultdict(list)
    for i, row in enumerate(rows):
        mine = drawn[row.task]
        mine.append((sha256(row.id.encode()).digest(), i))
        if len(mine) >= _HELD_PER_ROW * num_rows:
            mine[:] = heapq.nsmallest(num_rows, mine)
    return {task: [i for _, i in heapq.nsmallest(num_rows, mine)] for task, mine in drawn.items()}


def choose_rows(rows: Sequence[Row], num_rows: int) -> list[int]:
    """Numbers of rows without personal data, of every task in turn, each task's by the hash of their id.

    What a person is shown may be passed on, so that a row which the spec only flags is not among them.
    """
    by_task = drawn_by_task(rows, num_rows * _LOOKED_AT_PER_ROW)
    turns = sorted((turn, task, i) for task, each in by_task.items() for turn, i in enumerate(each))
    return [*islice((i for _, _, i in turns if not personal_data(rows[i])), num_rows)]


def preview(rows: Sequence[Row], num_rows: int, renderer: Renderer, checks: Checks) -> Iterator[ShownRow]:
    """That many rows of those that have not been rendered yet; one that cannot be is passed over."""
    chosen = choose_rows(rows, num_rows * _LOOKED_AT_PER_ROW)
    made = (render_or_fault(rows[i], renderer, checks) for i in chosen)
    fitting = (each for each in made if not isinstance(each, Fault))
    return (shown for each in islice(fitting, num_rows) for shown in show_row(*each, renderer))


def show_row(row: Row, rendered: Rendered, renderer: Renderer) -> Iterator[ShownRow]:
    """The row, and after a preferred answer the one that was not."""
    yield _show(row, rendered, renderer)
    if rendered.rejected is not None:
        yield _show(row, rendered.rejected, renderer).model_copy(update={"is_rejected": True})


def _show(row: Row, rendered: Rendered, renderer: Renderer) -> ShownRow:
    soft = rendered.soft_targets
    return ShownRow(
        source=row.source,
        line=row.line,
        task=row.task,
        tokens=len(rendered.input_ids),
        supervised_tokens=int(rendered.loss_mask.sum()),
        alternatives=soft.ids_NK.shape[1] if soft else None,
        spans=tuple(_spans(list(pieces(rendered, renderer)))),
    )


def _spans(made: list[Piece]) -> Iterator[Span]:
    omitted = len(made) - _MAX_PIECES
    if omitted <= 0:
        yield from _same_kind(made)
        return
    yield from _same_kind(made[:_FIRST_PIECES])
    yield Span(pieces=(), supervised=False, special=False, omitted=omitted)
    yield from _same_kind(made[_FIRST_PIECES + omitted :])


def _same_kind(made: Iterable[Piece]) -> Iterator[Span]:
    for (supervised, special), each in groupby(made, key=lambda piece: (piece.supervised, piece.special)):
        yield Span(pieces=tuple(piece.text for piece in each), supervised=supervised, special=special)
