"""Engines that are started when their model is first asked, and stopped to make room for others."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from model_server.engine import Engine

logger = logging.getLogger(__name__)


@dataclass
class _Place:
    engine: Engine
    ready: asyncio.Task[None]
    num_requests: int = 0
    """Under way."""
    asked_at: float = field(default_factory=time.monotonic)

    @property
    def is_lost(self) -> bool:
        """Whether its engine has ended, or never came to be."""
        return self.engine.has_ended or (self.ready.done() and self.ready.exception() is not None)


class Pool:
    """At most so many engines; one under use is never stopped."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._places: dict[str, _Place] = {}
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def use(self, name: str, make: Callable[[], Engine]) -> AsyncIterator[Engine]:
        """The engine of a model, ready, and not stopped before the end of `with`.

        Args:
            name: of the model.
            make: its engine, not started; asked where it has none.

        Raises:
            StageError: it does not start.
        """
        async with self._changed:
            while (place := self._place(name, make)) is None:
                await self._changed.wait()
            place.num_requests += 1
        try:
            await asyncio.shield(place.ready)
            yield place.engine
        finally:
            async with self._changed:
                place.num_requests -= 1
                place.asked_at = time.monotonic()
                self._changed.notify_all()

    def _place(self, name: str, make: Callable[[], Engine]) -> _Place | None:
        """None as long as there is no room for it."""
        if (place := self._places.get(name)) and not place.is_lost:
            return place
        leaving = name if place else None
        if leaving is None and len(self._places) >= self._most:
            idle = {name: each for name, each in self._places.items() if not each.num_requests}
            if not idle:
                return None
            leaving = min(idle, key=lambda each: idle[each].asked_at)
            logger.info("%s is stopped to make room", leaving)
        before = self._places.pop(leaving).engine if leaving else None
        engine = make()
        self._places[name] = _Place(engine, asyncio.create_task(_start(engine, before)))
        return self._places[name]

    async def stop(self) -> None:
        """Whatever state its engines are in."""
        for place in self._places.values():
            place.ready.cancel()
        await asyncio.gather(*(place.ready for place in self._places.values()), return_exceptions=True)
        await asyncio.gather(*(place.engine.stop() for place in self._places.values()))


async def _start(engine: Engine, before: Engine | None) -> None:
    """In the place of another, whose memory it needs."""
    if before is not None:
        await before.stop()
    await engine.start()
