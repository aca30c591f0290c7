"""The fine-tuning service on one machine: gateway, worker and model server, kept up until interrupted."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import typer

from tunebook_jobs.database import open_database
from tunebook_jobs.keys import create_key, list_keys
from tunebook_run.settings import Settings
from tunebook_run.store import Store
from tunebook_spec.errors import StageError

logger = logging.getLogger(__name__)

START_S = 120.0
STOP_S = 20.0
RESTART_S, MAX_RESTART_S = 1.0, 30.0
"""Before what has ended is started again; twice as long each time that it has not stayed up."""
STAYED_UP_S = 10.0


@dataclass
class _Process:
    arguments: Sequence[str]
    environment: dict[str, str]
    process: subprocess.Popen[bytes]
    wait_s: float
    """Before it was started."""
    started_at: float = field(default_factory=time.monotonic)
    again_at: float | None = None
    """When it is started again; None as long as it is not known to have ended."""

    @classmethod
    def start(cls, arguments: Sequence[str], environment: dict[str, str], wait_s: float = 0.0) -> _Process:
        command = [sys.executable, "-m", *arguments, "--with-parent"]
        env = {**os.environ, **environment}
        # A group of its own: Ctrl-C is for this process, which tells the others.
        process = subprocess.Popen(command, stdin=subprocess.PIPE, env=env, start_new_session=True)
        return cls(arguments, environment, process, wait_s)

    def stop(self) -> None:
        """Wait for its end, which it has been told of."""
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.close()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()


def serve(settings: Settings, *, host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM; says on stdout where, and the key that is made at the first start.

    Raises:
        StageError: a part of it does not start.
    """
    database = open_database(settings, Store(settings.storage_url, settings.cache_dir))
    inner = _free_port()
    environment = {"TUNEBOOK_GATEWAY__MODEL_SERVER_URL": f"http://127.0.0.1:{inner}/v1"}
    commands = (
        ("model_server", "--port", str(inner)),
        ("gateway", "--host", host, "--port", str(port)),
        ("worker",),
    )
    is_told_to_stop: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda got, _: is_told_to_stop.append(got))
    with _running(commands, environment) as processes:
        for address in (f"{_reachable(host)}:{port}/openapi.json", f"127.0.0.1:{inner}/health"):
            _wait_for(f"http://{address}", processes, is_told_to_stop)
        if not is_told_to_stop:
            # Only now: a key that is made is shown, or nobody could ever use it.
            key = create_key(database, "default") if not list_keys(database) else None
            _say(settings, f"http://{_reachable(host)}:{port}/v1", key)
        database.engine.dispose()
        while not is_told_to_stop:
            time.sleep(0.2)
            _keep_up(processes)


@contextmanager
def _running(commands: Sequence[Sequence[str]], environment: dict[str, str]) -> Iterator[dict[str, _Process]]:
    processes = {command[0]: _Process.start(command, environment) for command in commands}
    try:
        yield processes
    finally:
        for each in processes.values():
            each.process.send_signal(signal.SIGTERM)
        for each in processes.values():
            each.stop()


def _keep_up(processes: dict[str, _Process]) -> None:
    now = time.monotonic()
    for name, each in processes.items():
        if (status := each.process.poll()) is None:
            continue
        if each.again_at is None:
            has_stayed = now - each.started_at > STAYED_UP_S
            each.wait_s = RESTART_S if has_stayed else min(MAX_RESTART_S, max(RESTART_S, 2 * each.wait_s))
            each.again_at = now + each.wait_s
            told = "%s ended with status %d and is started again in %.2f s"
            logger.warning(told, name, status, each.wait_s)
        elif now >= each.again_at:
            each.close()
            processes[name] = _Process.start(each.arguments, each.environment, each.wait_s)


def _wait_for(url: str, processes: dict[str, _Process], is_told_to_stop: list[int]) -> None:
    deadline = time.monotonic() + START_S
    while not is_told_to_stop:
        for name, each in processes.items():
            if (status := each.process.poll()) is not None:
                raise StageError(f"{name} ended with status {status} while it was started")
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        if time.monotonic() > deadline:
            raise StageError(f"nothing answers at {url} after {START_S:.0f} s")
        time.sleep(0.1)


def _say(settings: Settings, base_url: str, key: str | None) -> None:
    names = [*settings.gateway.base_models]
    names += [f"{alias} (here {name})" for alias, name in settings.gateway.aliases.items()]
    others = "`tunebook keys create` makes others"
    known = f"{key}, shown this once; {others}" if key else f"`tunebook keys list` shows which; {others}"
    typer.echo(f"base URL  {base_url}\nkey       {known}\nmodels    {', '.join(names)}")


def _reachable(host: str) -> str:
    """As a URL of this machine has it."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
