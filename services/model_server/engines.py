"""vLLM servers, one a model, started when their model is first asked and stopped to make room for others."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import IO

import httpx

from tunebook_inference.vllm_engine import engine_environment
from tunebook_spec.errors import StageError

logger = logging.getLogger(__name__)

START_S = 600.0
_LOG_BYTES = 2000

Command = Callable[[int], list[str]]
"""The arguments of vLLM's server on a port."""


@dataclass
class Engine:
    """One vLLM server; `ready` is done when it answers."""

    name: str
    port: int
    arguments: list[str]
    asked_at: float = field(default_factory=time.monotonic)
    num_requests: int = 0
    """Under way."""
    ready: asyncio.Task[None] | None = None
    process: subprocess.Popen[bytes] | None = None
    log: IO[bytes] = field(default_factory=tempfile.TemporaryFile)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/"

    async def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            StageError: it ended instead; with the end of what it logged.
        """
        started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "model_server.engine_process", *self.arguments],
            stdin=subprocess.PIPE,
            stdout=self.log,
            stderr=self.log,
            env={**os.environ, **engine_environment()},
            start_new_session=True,
        )
        async with httpx.AsyncClient(trust_env=False) as client:
            while not await _answers(client, f"http://127.0.0.1:{self.port}/health"):
                if self.process.poll() is not None or time.monotonic() - started > START_S:
                    self.stop()
                    raise StageError(f"the engine of {self.name} did not start:\n{self._logged()}")
                await asyncio.sleep(0.1)
        logger.info("%s is served, started in %.1f s", self.name, time.monotonic() - started)

    @property
    def has_ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def stop(self) -> None:
        if self.process is None:
            return
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()

    def _logged(self) -> str:
        self.log.seek(max(0, self.log.seek(0, os.SEEK_END) - _LOG_BYTES))
        return self.log.read().decode(errors="replace")


async def _answers(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).status_code == 200
    except httpx.TransportError:
        return False


class Engines:
    """At most so many engines; one under use is never stopped."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._engines: dict[str, Engine] = {}
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def use(self, name: str, command: Command) -> AsyncIterator[Engine]:
        """The engine of a model, ready, and not stopped before the end of `with`.

        Raises:
            StageError: it does not start.
        """
        engine = await self._reserved(name, command)
        try:
            assert engine.ready is not None
            await asyncio.shield(engine.ready)
            yield engine
        finally:
            async with self._changed:
                engine.num_requests -= 1
                engine.asked_at = time.monotonic()
                self._changed.notify_all()

    async def _reserved(self, name: str, command: Command) -> Engine:
        async with self._changed:
            engine = self._engines.get(name)
            while engine is None or engine.has_ended:
                if engine is not None:
                    del self._engines[name]
                    engine.stop()
                elif len(self._engines) < self._most or self._made_room():
                    port = free_port()
                    new = Engine(name, port, command(port))
                    new.ready = asyncio.create_task(new.start())
                    self._engines[name] = new
                else:
                    await self._changed.wait()
                engine = self._engines.get(name)
            engine.num_requests += 1
            return engine

    def _made_room(self) -> bool:
        idle = [each for each in self._engines.values() if not each.num_requests]
        if not idle:
            return False
        oldest = min(idle, key=lambda each: each.asked_at)
        logger.info("%s is stopped to make room", oldest.name)
        del self._engines[oldest.name]
        oldest.stop()
        return True

    def stop(self) -> None:
        for engine in self._engines.values():
            engine.stop()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
