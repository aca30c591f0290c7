"""What a job tells while it runs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from tunebook_jobs.ids import new_id
from tunebook_jobs.tables import Event

Level = Literal["info", "warn", "error"]


@dataclass(frozen=True)
class NewEvent:
    message: str
    level: Level = "info"
    data: dict[str, Any] | None = None
    step: int | None = None
    """Of metrics, which are told once a step."""


def add_event(session: Session, job: str, event: NewEvent) -> bool:
    """Whether it is told now: what a step has told is told once."""
    of_step = select(Event.id).where(Event.job == job, Event.step == event.step)
    if event.step is not None and session.scalar(of_step):
        return False
    session.add(
        Event(
            id=new_id("ftevent-"),
            job=job,
            created_at=int(time.time()),
            level=event.level,
            message=event.message,
            type="message" if event.step is None else "metrics",
            data=event.data,
            step=event.step,
        )
    )
    session.flush()  # rows that are made together are numbered in the order in which they are added
    return True
