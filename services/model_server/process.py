"""The life of a server with several engines: start, watch, drain, stop."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from model_server.engine import DRAIN_S, Engine
from model_server.router import Router, by_name
from model_server.traffic import Traffic
from tunebook_spec.errors import StageError

logger = logging.getLogger(__name__)

WATCH_S = 1.0


def run(engines: Sequence[Engine], traffic: Traffic, folder: Path, *, host: str, port: int) -> None:
    """Start the engines, serve them until told to stop, and let them finish what is under way.

    Args:
        engines: not started.
        traffic: how requests are shared out.
        folder: that the log's path is relative to.
        host: address to listen on.
        port: likewise.

    Raises:
        StageError: an engine did not start, or ended.
    """
    asyncio.run(_run(engines, traffic, folder, host, port))


async def _run(engines: Sequence[Engine], traffic: Traffic, folder: Path, host: str, port: int) -> None:
    failed: list[StageError] = []
    router = Router(by_name(engines), traffic, folder)
    try:
        await _start(engines)
        server = uvicorn.Server(config(router.application, host, port))
        # It takes these over while it serves, and raises what it got again for whoever had them before.
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, _stop, server)
        watching = asyncio.create_task(_watch(engines, server, failed))
        logger.info("ready: %s", ", ".join(router.names))
        await server.serve()
        watching.cancel()
    finally:
        await router.close()
        await asyncio.gather(*(engine.stop() for engine in engines))
    if failed:
        raise failed[0]


def config(application: ASGIApp, host: str, port: int) -> uvicorn.Config:
    """Of a server that lets its engines finish what is under way."""
    quiet: dict[str, Any] = {"log_config": None, "access_log": False}
    return uvicorn.Config(application, host=host, port=port, timeout_graceful_shutdown=DRAIN_S, **quiet)


async def _start(engines: Sequence[Engine]) -> None:
    try:
        async with asyncio.TaskGroup() as starting:
            for engine in engines:
                starting.create_task(engine.start())
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None


def _stop(server: uvicorn.Server) -> None:
    logger.info("told to stop: what is under way is finished first")
    server.should_exit = True


async def _watch(engines: Sequence[Engine], server: uvicorn.Server, failed: list[StageError]) -> None:
    """Without one of its engines the server ends, for whoever looks after it to start it anew."""
    while not failed:
        await asyncio.sleep(WATCH_S)
        for engine in engines:
            try:
                engine.check()
            except StageError as ended:
                failed.append(ended)
                server.should_exit = True
