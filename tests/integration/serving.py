"""`tunebook serve` of a project's runs, until it is told to stop."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from tests.integration.project import Project, kill

MODEL = "tiny@latest"
QUESTION: Any = [{"role": "user", "content": "What colour is the sky number 3?"}]


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[str]
    url: str

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"


@contextmanager
def serving(project: Project, *arguments: str) -> Iterator[Server]:
    """A server that has answered once; killed at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = project.start("serve", MODEL, "--port", str(port), *arguments)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 300
        while not is_ready(url):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "the server never became ready"
            time.sleep(0.2)
        # Ready means ready.
        answer = httpx.post(f"{url}/v1/chat/completions", json={"model": MODEL, "messages": QUESTION})
        assert answer.status_code == 200, answer.text
        yield Server(process, url)
    finally:
        kill(process)
        process.communicate()


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=20).status_code == 200
    except httpx.TransportError:
        return False
