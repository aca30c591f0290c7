"""A vLLM server in a process of its own that ends with ours."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tunebook_spec.errors import StageError

logger = logging.getLogger(__name__)

START_S = 1800
"""How long an engine may take to answer for the first time."""
DRAIN_S = 120
"""How long requests under way may take once the server is told to stop."""
_END_S = 30
"""How long an engine may take to end after that."""
_POLL_S = 0.1
_KEPT_S = 1.0
"""How long a connection is kept for the next request: vLLM ends an idle one after 5 s, and a request that
meets that end has no answer."""
_STDERR = 2


@dataclass
class Engine:
    names: tuple[str, ...]
    """What clients may call it; the first is its own."""
    socket: Path
    """It listens there, out of reach of any other machine."""
    command: Sequence[str]
    """Of a program that ends with its stdin, as `engine_process` does."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What it has beside ours."""
    http: httpx.AsyncClient = field(init=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _is_ready: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        limits = httpx.Limits(max_connections=None, keepalive_expiry=_KEPT_S)
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket), limits=limits)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=None)

    @property
    def name(self) -> str:
        return self.names[0]

    async def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            StageError: it ended, or does not answer in time, and is stopped.
        """
        started = time.monotonic()
        # Its own session: a Ctrl-C is meant for the one who drains first. Its log: stdout is for results.
        self._process = subprocess.Popen(
            self.command,
            env={**os.environ, **self.environment},
            stdin=subprocess.PIPE,
            stdout=_STDERR,
            start_new_session=True,
        )
        try:
            while not await self.is_healthy():
                self.check()
                if time.monotonic() - started > START_S:
                    raise StageError(f"the engine of {self.name} does not answer after {START_S} s")
                await asyncio.sleep(_POLL_S)
        except BaseException:
            await self.stop()
            raise
        self._is_ready = True
        logger.info("%s is ready, started in %.1f s", self.name, time.monotonic() - started)

    @property
    def has_ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def check(self) -> None:
        """Raises StageError if its process has ended."""
        if self._process is not None and (status := self._process.poll()) is not None:
            raise StageError(f"the engine of {self.name} ended with status {status}; its log says why")

    async def is_healthy(self) -> bool:
        try:
            return (await self.http.get("/health")).status_code == 200
        except httpx.TransportError:
            return False

    async def stop(self) -> None:
        """Let it finish what is under way, where it was ready, and wait for its end."""
        if self._process is None:
            await self.http.aclose()
            return
        assert self._process.stdin is not None
        if self._process.stdin.closed:  # it is stopped
            return
        if self._is_ready and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                await asyncio.to_thread(self._process.wait, DRAIN_S + _END_S)
            except subprocess.TimeoutExpired:
                logger.warning("the engine of %s did not end in time and is killed", self.name)
        try:
            os.killpg(self._process.pid, signal.SIGKILL)  # vLLM has processes of its own
        except ProcessLookupError:
            pass
        self._process.wait()
        self._process.stdin.close()
        await self.http.aclose()


def vllm_engine(names: tuple[str, ...], socket: Path, arguments: Sequence[str]) -> Engine:
    """An engine, not started, of vLLM's own arguments."""
    from tunebook_inference.vllm_engine import engine_environment

    command = [sys.executable, "-m", "model_server.engine_process", *arguments]
    return Engine(names, socket, command, engine_environment())
