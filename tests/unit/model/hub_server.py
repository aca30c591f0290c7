"""A stand-in for the Hugging Face hub that its own client talks to."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import pytest


class Hub(ThreadingHTTPServer):
    """A folder behind as much of the hub's protocol as its own client needs."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.commit = "0" * 40
        self.asked: list[str] = []
        self.cut: set[str] = set()
        """Files whose connection breaks half-way."""


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(path)
        if path.startswith(("/api/models/owner/name", "/api/datasets/owner/name")):
            names = {f.relative_to(self.server.folder).as_posix(): f for f in self.server.folder.rglob("*.*")}
            tree = [
                {"type": "file", "path": name, "size": f.stat().st_size, "oid": name}
                for name, f in names.items()
            ]
            siblings = [{"rfilename": name} for name in names]
            commit = {"id": "owner/name", "sha": self.server.commit, "siblings": siblings}
            answer = json.dumps(tree if "/tree/" in path else commit).encode()
            self._answer(answer, {"Content-Type": "application/json"})
            return
        file = self.server.folder / path.partition("/resolve/")[2].partition("/")[2]
        if not file.is_file():
            self.send_error(404)
            return
        content = file.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": self.server.commit}
        self._answer(content, headers, cut=file.name in self.server.cut)

    do_HEAD = do_GET

    def _answer(self, content: bytes, headers: dict[str, str], *, cut: bool = False) -> None:
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = cut

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(folder: Path, cache: Path) -> Iterator[Hub]:
    """The hub's client asks this server and keeps what it gets in a cache."""
    server = Hub(folder)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "ENDPOINT": endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": endpoint + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(cache),
            "HF_HUB_OFFLINE": False,
        }.items():
            patch.setattr(huggingface_hub.constants, name, value)
        yield server
    server.shutdown()
    server.server_close()
