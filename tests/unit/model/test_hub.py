from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest

from tests.unit.model.test_resolve import COMMIT
from tunebook_model.hub import snapshot
from tunebook_spec.errors import ModelError


class Hub(ThreadingHTTPServer):
    """A folder behind as much of the hub's protocol as its own client needs."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.cut: set[str] = set()
        """Files whose connection breaks half-way."""


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/models/owner/name"):
            files = list(self.server.folder.iterdir())
            tree = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": f.name} for f in files]
            commit = {"id": "owner/name", "sha": COMMIT, "siblings": [{"rfilename": f.name} for f in files]}
            answer = json.dumps(tree if "/tree/" in path else commit).encode()
            self._answer(answer, {"Content-Type": "application/json"})
            return
        file = self.server.folder / Path(path).name
        if not file.is_file():
            self.send_error(404)
            return
        content = file.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
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


@pytest.fixture
def hub(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub(model_folder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    for name, value in {
        "ENDPOINT": endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": False,
    }.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    yield server
    server.shutdown()
    server.server_close()


def test_a_model_is_downloaded_whole_and_then_needs_no_hub(hub: Hub) -> None:
    folder = snapshot("owner/name", "main", online=True, token=None)
    assert (folder / "model.safetensors").read_bytes() == (hub.folder / "model.safetensors").read_bytes()
    hub.cut.add("model.safetensors")
    assert snapshot("owner/name", "main", online=False, token=None) == folder


def test_a_download_that_breaks_off_is_told_and_the_next_one_ends_it(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)  # the client waits between its attempts
    hub.cut.add("model.safetensors")
    with pytest.raises(ModelError, match=r"'owner/name' at .* broke off; run again .*\n.*peer closed"):
        snapshot("owner/name", "main", online=True, token=None)
    hub.cut.clear()
    folder = snapshot("owner/name", "main", online=True, token=None)
    assert (folder / "model.safetensors").read_bytes() == (hub.folder / "model.safetensors").read_bytes()
