"""The fine-tuning service with its processes, in a folder of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.integration.project import COLOURS, TOPICS, kill

ALIAS = "gpt-4o-mini-2024-07-18"


@dataclass
class Service:
    """`with service.running("gateway", ...)` starts its processes; what they said is in `log`."""

    folder: Path
    model: Path
    environment: dict[str, str] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=lambda: dict(zip(SERVERS, free_ports(2), strict=True)))

    def __post_init__(self) -> None:
        bases = {"tiny-llama": {"kind": "folder", "path": str(self.model)}}
        self.environment = {
            "TUNEBOOK_STORAGE_URL": str(self.folder / "runs"),
            "TUNEBOOK_CACHE_DIR": str(self.folder / "cache"),
            "TUNEBOOK_CPUS_PER_WORKER": "1",
            "TUNEBOOK_GATEWAY__BASE_MODELS": json.dumps(bases),
            "TUNEBOOK_GATEWAY__ALIASES": json.dumps({ALIAS: "tiny-llama"}),
            "TUNEBOOK_GATEWAY__METHOD": "full",
            "TUNEBOOK_GATEWAY__LEARNING_RATE": "1e-2",
            "TUNEBOOK_GATEWAY__MODEL_SERVER_URL": f"http://127.0.0.1:{self.ports['model_server']}/v1",
            **self.environment,
        }

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['gateway']}/v1"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The `tunebook` command."""
        return subprocess.run(
            [sys.executable, "-m", "tunebook_cli", *arguments],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
        )

    def key(self, project: str) -> str:
        made = self.command("keys", "create", "--project", project)
        assert made.returncode == 0, made.stderr
        return made.stdout.strip()

    def start(self, name: str, module: str | None = None) -> subprocess.Popen[str]:
        """Start `gateway`, `model_server`, or a worker of any name."""
        port = ["--port", str(self.ports[name])] if name in SERVERS else []
        with (self.folder / "log").open("a") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", module or name, *port],
                env={**os.environ, **self.environment},
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        return self.processes[name]

    @contextmanager
    def served(self) -> Iterator[str]:
        """All of it by `tunebook serve`; the key that it makes at its first start."""
        self.folder.mkdir(parents=True, exist_ok=True)
        arguments = ["serve", "--port", str(self.ports["gateway"])]
        with (self.folder / "log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tunebook_cli", *arguments],
                env={**os.environ, **self.environment},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self.processes["serve"] = process
        assert process.stdout is not None
        try:
            said = [process.stdout.readline() for _ in range(3)]
            assert said[0] == f"base URL  {self.base_url}\n", self.log
            yield said[1].split()[1].rstrip(",")
        finally:
            process.send_signal(signal.SIGINT)
            try:
                status = process.wait(60)
            finally:
                kill(process)
                process.stdout.close()
        assert status == 0, self.log

    def part(self, name: str) -> psutil.Process | None:
        """The process of a part that `tunebook serve` keeps up; None while there is none."""
        for each in psutil.Process(self.processes["serve"].pid).children():
            try:
                if each.cmdline()[1:3] == ["-m", name] and each.status() != psutil.STATUS_ZOMBIE:
                    return each
            except psutil.NoSuchProcess:
                continue
        return None

    @contextmanager
    def running(self, *names: str) -> Iterator[Service]:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            for name in names:
                self.start(name)
            for name in names:
                self.wait_for(name)
            yield self
        finally:
            for process in self.processes.values():
                process.send_signal(signal.SIGTERM)
            for process in self.processes.values():
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    kill(process)

    def wait_for(self, name: str) -> None:
        """Until a server answers."""
        deadline = time.monotonic() + 120
        while name in SERVERS:
            assert self.processes[name].poll() is None, self.log
            assert time.monotonic() < deadline, f"{name} never became ready:\n{self.log}"
            try:
                httpx.get(f"http://127.0.0.1:{self.ports[name]}/health")
                return
            except httpx.TransportError:
                time.sleep(0.1)


SERVERS = ("gateway", "model_server")


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def chats(per_topic: int) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "system", "content": "Name the colour."},
                {"role": "user", "content": f"What colour is the {topic} number {number}?"},
                {"role": "assistant", "content": colour},
            ]
        }
        for topic, colour in zip(TOPICS, COLOURS, strict=True)
        for number in range(per_topic)
    ]


def jsonl(rows: Sequence[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
