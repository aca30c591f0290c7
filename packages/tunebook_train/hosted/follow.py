"""A job at a provider until its end: its events as they come, its state by looking ever more seldom."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from tenacity import Retrying, retry_if_result, wait_exponential

from tunebook_run.progress import Advance
from tunebook_spec.errors import StageError
from tunebook_train.hosted.provider import FAILED, Provider, Refusal, Trouble

logger = logging.getLogger(__name__)

EVENTS = "events.jsonl"
MAX_POLL_S = 60.0
POLL_GROWTH = 1.3


def follow(provider: Provider, job: str, out: Path, advance: Advance) -> FineTuningJob:
    """The job as it ended; `events.jsonl` gets each event once, over all attempts to follow it.

    Raises:
        StageError: the provider answers no more; the job goes on.
    """
    _end_whole(out / EVENTS)
    seen = {event["id"]: event for event in events_of(job, out)}

    def look() -> FineTuningJob:
        found = provider.job(job)
        _tell(provider, found, seen, out / EVENTS, advance)
        return found

    settings = provider.settings
    polling = Retrying(
        retry=retry_if_result(lambda found: found.status not in ("succeeded", *FAILED)),
        wait=wait_exponential(multiplier=settings.poll_s, exp_base=POLL_GROWTH, max=MAX_POLL_S),
    )
    try:
        return polling(look)
    except Refusal as refusal:
        raise StageError(f"{provider.host} no longer shows job {job}: {refusal.detail}") from None


def leave(provider: Provider, job: str) -> bool:
    """Leave the job of an interrupted run to itself, or cancel it where the settings say so.

    Returns:
        Whether it has ended by that, as the provider says.
    """
    if not provider.settings.cancel_on_interrupt:
        logger.warning(
            "job %s goes on at %s, and the same command finds it; TUNEBOOK_HOSTED__CANCEL_ON_INTERRUPT=true"
            " would have cancelled it",
            job,
            provider.host,
        )
        return False
    try:
        cancelled = provider.once(lambda: provider.client.fine_tuning.jobs.cancel(job))
    except (Trouble, Refusal, StageError) as error:
        logger.warning("job %s at %s could not be cancelled: %s", job, provider.host, error)
        return False
    logger.warning("job %s at %s is told to end, and is %s", job, provider.host, cancelled.status)
    return cancelled.status in FAILED


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C comes from the terminal and again from the process that started this one: once is enough."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def events_of(job: str, out: Path) -> list[dict[str, Any]]:
    """What was told of a job so far, the oldest first; other attempts of the stage had other jobs."""
    path = out / EVENTS
    events = map(orjson.loads, path.read_bytes().splitlines()) if path.exists() else ()
    return [event for event in events if event["job"] == job]


def _end_whole(path: Path) -> None:
    """A half-written line is told again."""
    if path.exists():
        path.write_bytes(b"".join(line + b"\n" for line in path.read_bytes().split(b"\n")[:-1]))


def _tell(
    provider: Provider, job: FineTuningJob, seen: dict[str, dict[str, Any]], path: Path, advance: Advance
) -> None:
    fresh: list[FineTuningJobEvent] = []
    for event in provider.events(job.id):
        if event.id in seen:
            break
        fresh.append(event)
    with path.open("ab") as file:
        for event in reversed(fresh):
            seen[event.id] = {"job": job.id, **provider.said(event.to_dict())}
            file.write(orjson.dumps(seen[event.id], option=orjson.OPT_APPEND_NEWLINE))
            if event.type != "metrics":
                level = {"warn": logging.WARNING, "error": logging.ERROR}.get(event.level, logging.INFO)
                logger.log(level, "train            %s: %s", job.id, provider.said(event.message))
    data = next((e["data"] for e in reversed(seen.values()) if _has_steps(e)), None)
    if data is not None:
        advance(int(data["step"]), int(data["total_steps"]), f"{job.status} at {provider.host}")


def _has_steps(event: dict[str, Any]) -> bool:
    data, names = event.get("data"), ("step", "total_steps")
    return isinstance(data, dict) and all(isinstance(data.get(name), int | float) for name in names)
