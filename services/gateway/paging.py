"""Cursors: a page of a list, after the item that the last one ended with."""

from __future__ import annotations

from typing import Any, TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute, Session

from gateway.errors import not_found

Row = TypeVar("Row")


def page(
    session: Session,
    query: Select[Row],
    table: Any,
    *,
    after: str | None,
    limit: int,
    ascending: bool = False,
) -> tuple[list[Row], bool]:
    """Rows in the order in which they were made, newest first unless `ascending`, and whether more follow.

    Raises:
        ApiError: 404, there is no such item to go on after.
    """
    number: InstrumentedAttribute[int] = table.number
    if after is not None:
        at = session.scalar(query.with_only_columns(number).where(table.id == after))
        if at is None:
            raise not_found("object to go on after", after, "after")
        query = query.where(number > at if ascending else number < at)
    ordered = query.order_by(number if ascending else number.desc())
    rows = list(session.scalars(ordered.limit(limit + 1)))
    return rows[:limit], len(rows) > limit
