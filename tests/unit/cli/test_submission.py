from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from zipfile import ZipFile

import pytest

from tunebook_cli import parcel as parcel_
from tunebook_cli.main import main
from tunebook_cli.parcel import environment_to_send, pack, parcel
from tunebook_spec import load
from tunebook_spec.errors import DataError, InputError

SPEC = """\
version: 1
name: colours
base_model: {kind: folder, path: ../models/tiny}
data:
  sources:
    - {kind: file, path: rows/*.jsonl, task: colour, split: {group_by: topic, test: 0.2}}
    - {kind: file, path: /shared/more.jsonl, task: colour}
    - {kind: file, path: "s3://bucket/more.jsonl", task: colour}
method: {kind: full}
evaluation:
  sets:
    colour:
      task: colour
      metrics:
        - {kind: judge, judge: critic, criteria: {short: One word.}, golden: ../golden.jsonl}
  gates:
    - {metric: colour.judge, at_least: 0.5}
models:
  critic: {kind: scripted, path: script.jsonl}
  unused: {kind: gguf, path: absent.gguf}
profiles:
  other: {base_model: {kind: folder, path: absent}}
"""
PLACES = {
    "specs/colours.yaml": SPEC,
    "specs/rows/a.jsonl": "a",
    "specs/rows/b.jsonl": "b",
    "specs/rows/notes.txt": "not named",
    "specs/script.jsonl": "script",
    "golden.jsonl": "golden",
    "models/tiny/config.json": "{}",
    "models/tiny/more/weights": "w",
    "models/other/config.json": "not named",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for place, text in PLACES.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_parcel_has_what_the_spec_names_as_far_apart_as_it_was(folder: Path) -> None:
    sent = parcel(load(folder / "specs" / "colours.yaml"))
    named = {place for place, text in PLACES.items() if text != "not named"}
    assert {*sent.files} == {f"project/{place}" for place in named}
    pack(sent.files, {"TUNEBOOK_HUB_ONLINE": "true"}, folder / "a.zip")
    pack(sent.files, {"TUNEBOOK_HUB_ONLINE": "true"}, folder / "b.zip")
    assert (folder / "a.zip").read_bytes() == (folder / "b.zip").read_bytes()
    with ZipFile(folder / "a.zip") as archive:
        archive.extractall(folder / "there")
    there = folder / "there"
    assert load(there / sent.spec).spec == load(folder / "specs" / "colours.yaml").spec
    assert (there / "project" / "models" / "tiny" / "more" / "weights").read_text() == "w"
    assert json.loads((there / "environment.json").read_text()) == {"TUNEBOOK_HUB_ONLINE": "true"}
    ours = Path(parcel_.__file__)
    assert (there / "tunebook_cli" / "parcel.py").read_text() == ours.read_text()


def test_a_file_that_is_missing_here_is_told_here(folder: Path) -> None:
    (folder / "golden.jsonl").unlink()
    with pytest.raises(DataError, match=r"no such file: .*/golden\.jsonl"):
        parcel(load(folder / "specs" / "colours.yaml"))


def test_what_ray_would_refuse_is_refused_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcel_, "MOST_BYTES", 3 << 20)
    with (folder / "models" / "tiny" / "more" / "weights").open("wb") as weights:
        weights.truncate(4 << 20)
    with pytest.raises(InputError, match=r"are 4 MiB, .* at most 3: put .*/weights \(4 MiB\) where"):
        parcel(load(folder / "specs" / "colours.yaml"))


def test_settings_of_the_user_go_along_and_facts_of_this_machine_do_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / ".env").write_text("TUNEBOOK_NUM_WORKERS=3\nTUNEBOOK_PRICE_PER_HOUR=2\nOTHER=1\n")
    sent = {
        "TUNEBOOK_STORAGE_URL": "s3://bucket/runs",
        "TUNEBOOK_MODELS__JUDGE__API_KEY": "hush",
        "TUNEBOOK_PRICE_PER_HOUR": "4",
        "AWS_SECRET_ACCESS_KEY": "hush",
    }
    kept = {
        "TUNEBOOK_RAY_ADDRESS": "127.0.0.1:1",
        "TUNEBOOK_CACHE_DIR": "/here",
        "TUNEBOOK_GATEWAY__DATABASE_URL": "postgresql://hush",
        "AWS_SHARED_CREDENTIALS_FILE": "/here",
    }
    for name in parcel_.OF_LIBRARIES:
        monkeypatch.delenv(name, raising=False)
    for name, value in {**sent, **kept}.items():
        monkeypatch.setenv(name, value)
    assert environment_to_send() == {**sent, "TUNEBOOK_NUM_WORKERS": "3"}


Run = Callable[..., str]


@pytest.fixture
def refused(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """What a command says that is refused for bad usage."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("TUNEBOOK_STORAGE_URL", "s3://bucket/runs")

    def run(*arguments: str) -> str:
        assert main(["run", "colours", *arguments]) == 2
        return capsys.readouterr().err

    return run


@pytest.fixture
def web_server() -> Iterator[str]:
    """Says that it is a Ray cluster without authentication, below /open, and elsewhere that it is none."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"authentication_mode": "disabled"}' if self.path.startswith("/open/") else b"<html>"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("head:8265", "'head:8265' is no http:// or https:// URL"),
        ("http://127.0.0.1:9", "no Ray cluster answers at http://127.0.0.1:9 ("),
        ("{server}", "{server} answers, but not as Ray does"),
        ("{server}/open", "{server}/open asks for no token, so that whoever reaches it runs what he likes"),
    ],
    ids=["no URL", "nobody there", "not Ray", "a cluster open to all"],
)
def test_an_address_that_is_no_safe_cluster_is_refused_with_the_way_out(
    refused: Run, web_server: str, address: str, told: str
) -> None:
    said = refused("--address", address.format(server=web_server))
    assert said.startswith(f"error: {told.format(server=web_server)}")
    assert "http://head:8265" in said or "RAY_AUTH_MODE=token" in said


@pytest.mark.parametrize("url", [None, "runs", "~/runs"])
def test_a_job_needs_a_store_that_outlives_its_cluster(
    refused: Run, monkeypatch: pytest.MonkeyPatch, url: str | None
) -> None:
    monkeypatch.delenv("TUNEBOOK_STORAGE_URL")
    if url is not None:
        monkeypatch.setenv("TUNEBOOK_STORAGE_URL", url)
    said = refused("--address", "http://head:8265")
    assert "set TUNEBOOK_STORAGE_URL to s3://bucket/prefix, or to the absolute path" in said
