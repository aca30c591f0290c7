"""One vLLM server for each run, in a process of its own that ends with ours."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tunebook_spec.errors import StageError

logger = logging.getLogger(__name__)

DRAIN_S = 120
"""How long requests under way may take once the server is told to stop."""
_END_S = 30
"""How long an engine may take to end after that."""
_POLL_S = 0.2
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


@dataclass
class Engine:
    names: tuple[str, ...]
    """What clients may call it; the first is its own."""
    socket: Path
    """It listens there, out of reach of any other machine."""
    command: list[str]
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    client: httpx.AsyncClient | None = field(default=None, init=False)

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def http(self) -> httpx.AsyncClient:
        assert self.client is not None, "it was not started"
        return self.client

    def start(self) -> None:
        """Begin to start; `ready` waits for it."""
        # Its own session: a Ctrl-C is meant for the one who drains first.
        self.process = subprocess.Popen(
            self.command, env=self.environment, start_new_session=True, preexec_fn=_end_with_parent
        )
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket), limits=httpx.Limits(max_connections=None))
        self.client = httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=None)

    async def ready(self) -> None:
        """Wait until it answers.

        Raises:
            StageError: it has ended.
        """
        while not await self.is_healthy():
            self.check()
            await asyncio.sleep(_POLL_S)
        logger.info("%s is ready", self.name)

    def check(self) -> None:
        """Raises StageError if its process has ended."""
        assert self.process is not None
        if (status := self.process.poll()) is not None:
            raise StageError(f"the engine of {self.name} ended with status {status}; its log says why")

    async def is_healthy(self) -> bool:
        try:
            return (await self.http.get("/health")).status_code == 200
        except httpx.TransportError:
            return False

    async def stop(self) -> None:
        """Let it finish what is under way, and wait for its end."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                await asyncio.to_thread(self.process.wait, DRAIN_S + _END_S)
            except subprocess.TimeoutExpired:
                logger.warning("the engine of %s did not end in time and is killed", self.name)
                self.process.kill()
        if self.client is not None:
            await self.client.aclose()


def _end_with_parent() -> None:
    """However we end, a kill included, the engine is told to."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
