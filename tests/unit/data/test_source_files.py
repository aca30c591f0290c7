"""Where rows can lie, and in what kinds of files."""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import io
import lzma
import os
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from tests.unit.data.reading import ROW, read_rows
from tunebook_data.fingerprint import source_digests
from tunebook_data.records import read_records
from tunebook_data.source_files import Hashing, source_files
from tunebook_run.settings import Settings
from tunebook_spec.data import Data
from tunebook_spec.errors import DataError

PAIRS = [{"prompt": f"Question {n}\nof a few", "completion": f"Answer, {n}"} for n in range(700)]
WHAT = [(pair["prompt"], pair["completion"]) for pair in PAIRS]
LINES = b"\n".join(orjson.dumps(pair) for pair in PAIRS)


def in_csv() -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerows([["prompt", "completion"], *WHAT])
    return text.getvalue().encode()


def in_arrow(*, as_parquet: bool) -> bytes:
    made, sink = pa.Table.from_pylist(PAIRS), pa.BufferOutputStream()
    if as_parquet:
        pq.write_table(made, sink, row_group_size=300)
    else:
        with pa.ipc.new_stream(sink, made.schema) as writer:
            writer.write_table(made)
    return bytes(sink.getvalue())


KINDS: dict[str, Callable[[], bytes]] = {
    "a.jsonl": lambda: LINES,
    "a.json": lambda: orjson.dumps(PAIRS, option=orjson.OPT_INDENT_2),
    "in an object.json": lambda: orjson.dumps({"a": {"b": [1, "["]}, "rows": PAIRS, "c": 1}),
    "a.csv": in_csv,
    "a.parquet": partial(in_arrow, as_parquet=True),
    "a.arrow": partial(in_arrow, as_parquet=False),
    "a.jsonl.gz": lambda: gzip.compress(LINES),
    "A.JSONL.GZ": lambda: gzip.compress(LINES[:999]) + gzip.compress(LINES[999:]),
    "a.json.bz2": lambda: bz2.compress(orjson.dumps(PAIRS)),
    "a.csv.xz": lambda: lzma.compress(in_csv()),
    "a.jsonl.zst": lambda: bytes(pa.compress(LINES, "zstd", asbytes=True)),
}


def pairs(folder: Path, path: str) -> list[tuple[str, str]]:
    rows = read_rows(folder, path)
    return [(row.messages[0]["content"], row.messages[1]["content"]) for row in rows]


@pytest.mark.parametrize("name", KINDS)
def test_the_same_rows_come_out_of_every_kind_of_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(KINDS[name]())
    assert pairs(tmp_path, name) == WHAT


def test_a_row_is_placed_by_its_first_line_or_its_number(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.csv", "a.parquet", "a.json"):
        (tmp_path / name).write_bytes(KINDS[name]())
    places = {path.name: [row.line for row in read_rows(tmp_path, path.name)] for path in tmp_path.iterdir()}
    assert places["a.jsonl"] == places["a.parquet"] == places["a.json"] == list(range(1, 701))
    assert places["a.csv"] == list(range(2, 1402, 2))


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
def test_where_a_list_is_cut_into_chunks_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    texts = ['"', "\\", '\\"', "a\\\\", "[{]},:", "\u2028\U0001f98a", ""]
    rows = [{"prompt": a, "completion": b, "x": [[{}], None, 1.5]} for a in texts for b in texts]
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf\n" + orjson.dumps({"n": "]", "rows": rows}))
    monkeypatch.setattr("tunebook_data.json_list._CHUNK_BYTES", chunk)
    assert pairs(tmp_path, "a.json") == [(a, b) for a in texts for b in texts]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.jsonl.gz"])
def test_a_file_is_read_without_all_of_it_in_memory(tmp_path: Path, name: str) -> None:
    pair = {"prompt": "x" * 500, "completion": "y" * 500}
    lines = [orjson.dumps(pair)] * 8_000
    content = {
        "a.jsonl": b"\n".join(lines),
        "a.json": b"[" + b",".join(lines) + b"]",
        "a.csv": b"prompt,completion\n" + b"\n".join([b"x" * 500 + b"," + b"y" * 500] * 8_000),
    }
    packed = gzip.compress(content["a.jsonl"], 1)
    (tmp_path / name).write_bytes(content.get(name, packed))
    (file,) = source_files(name, tmp_path)
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_records(file)) == 8_000
        assert tracemalloc.get_traced_memory()[1] < 5 << 20, "of 8 MB"
    finally:
        tracemalloc.stop()


TREE = {
    "b.jsonl": 1,
    "a.jsonl": 2,
    "sub/c.jsonl": 3,
    "sub/deep/d.jsonl": 4,
    "other.csv": 5,
    ".hidden.jsonl": 6,
    "[x].jsonl": 7,
}
GLOBS = {
    "*.jsonl": ["[x].jsonl", "a.jsonl", "b.jsonl"],
    "[ab].jsonl": ["a.jsonl", "b.jsonl"],
    "**/*.jsonl": ["[x].jsonl", "a.jsonl", "b.jsonl", "sub/c.jsonl", "sub/deep/d.jsonl"],
    "s*/*.jsonl": ["sub/c.jsonl"],
    "sub/**/d*": ["sub/deep/d.jsonl"],
    "*": ["[x].jsonl", "a.jsonl", "b.jsonl", "other.csv"],
    "a.jsonl": ["a.jsonl"],
}


@pytest.fixture(params=["local", "absolute", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """The tree: what paths to it begin with, and what they end with."""
    filesystem, root = fs.LocalFileSystem(), str(tmp_path / "data")
    ends = {"local": ("data/", ""), "absolute": (f"{root}/", "")}
    if request.param == "s3":
        query = request.getfixturevalue("s3_url").partition("?")[2]
        filesystem, _ = fs.FileSystem.from_uri(f"s3://bucket?{query}")
        filesystem.create_dir("bucket")
        root, ends["s3"] = f"bucket/{tmp_path.name}", (f"s3://bucket/{tmp_path.name}/", f"?{query}")
    for name, number in TREE.items():
        filesystem.create_dir(f"{root}/{name}".rpartition("/")[0])
        with filesystem.open_output_stream(f"{root}/{name}") as stream:
            stream.write(orjson.dumps({"prompt": str(number), "completion": "x"}))
    return ends[request.param]


@pytest.mark.parametrize("pattern", GLOBS)
def test_a_glob_means_the_same_everywhere_and_is_sorted(
    tmp_path: Path, place: tuple[str, str], pattern: str
) -> None:
    start, end = place
    if pattern == "[ab].jsonl":
        (tmp_path / "data" / "[ab].jsonl").unlink(missing_ok=True)
    files = source_files(f"{start}{pattern}{end}", tmp_path)
    assert [file.name for file in files] == [f"{start}{name}" for name in GLOBS[pattern]]
    contents = []
    for file in files:
        with file.open() as stream:
            contents.append(orjson.loads(stream.read())["prompt"])
    assert contents == [str(TREE[name]) for name in GLOBS[pattern]]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("absent.jsonl", "no such file: .*absent.jsonl"),
        ("none*.jsonl", r"no file matches: .*none\*"),
        ("sub", "is a folder: .*sub; name its files by a glob"),
        ("empty.jsonl", "is an empty file: .*empty.jsonl"),
    ],
)
def test_a_path_that_leads_to_nothing_is_told(
    tmp_path: Path, place: tuple[str, str], path: str, message: str
) -> None:
    start, end = place
    if not end:
        (tmp_path / "data" / "empty.jsonl").touch()
    elif path.startswith("empty"):
        filesystem, root = fs.FileSystem.from_uri(f"{start}{end}")
        filesystem.open_output_stream(f"{root.rstrip('/')}/empty.jsonl").close()
    with pytest.raises(DataError, match=message):
        source_files(f"{start}{path}{end}", tmp_path)


def test_rows_are_read_from_an_object_store(tmp_path: Path, s3_url: str) -> None:
    query = s3_url.partition("?")[2]
    filesystem, _ = fs.FileSystem.from_uri(f"s3://bucket?{query}")
    filesystem.create_dir("bucket")
    for name in ("a.parquet", "b.jsonl.gz"):
        with filesystem.open_output_stream(f"bucket/{tmp_path.name}/{name}") as stream:
            stream.write(KINDS[name.replace("b.", "a.")]())
    rows = read_rows(tmp_path, f"s3://bucket/{tmp_path.name}/*?{query}")
    assert [row.messages[0]["content"] for row in rows] == [prompt for prompt, _ in WHAT] * 2
    assert {row.source for row in rows} == {
        f"s3://bucket/{tmp_path.name}/{x}" for x in ("a.parquet", "b.jsonl.gz")
    }


def test_a_bucket_that_is_not_there_is_told(tmp_path: Path, s3_url: str) -> None:
    query = s3_url.partition("?")[2]
    with pytest.raises(DataError, match=r"(no such file|cannot be read).*s3://absent-bucket/a\.jsonl"):
        source_files(f"s3://absent-bucket/a.jsonl?{query}", tmp_path)


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass

    def end_headers(self) -> None:
        file = Path(self.translate_path(self.path))
        if self.path.startswith(("/tagged", "/weak")):
            weak = "W/" if self.path.startswith("/weak") else ""
            self.send_header("ETag", f'{weak}"{hashlib.sha256(file.read_bytes()).hexdigest()}"')
        super().end_headers()

    def do_GET(self) -> None:
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", "/a.parquet")
            self.end_headers()
        elif self.path.startswith(("/cut", "/tagged_cut")):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(ROW)
        else:
            super().do_GET()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The URL of a server of what lies in tmp_path."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("path", ["a.parquet", "a.jsonl.gz?token=secret", "moved.parquet"])
def test_rows_are_read_from_a_url_and_its_query_is_not_told(tmp_path: Path, web: str, path: str) -> None:
    for name in ("a.parquet", "a.jsonl.gz"):
        (tmp_path / name).write_bytes(KINDS[name]())
    assert pairs(tmp_path, f"{web}/{path}") == WHAT
    assert {row.source for row in read_rows(tmp_path, f"{web}/{path}")} == {f"{web}/{path.partition('?')[0]}"}


def test_a_url_that_cannot_be_fetched_is_told(tmp_path: Path, web: str) -> None:
    with pytest.raises(DataError, match=r"/absent\.jsonl: cannot be fetched \(HTTP 404\)") as caught:
        read_rows(tmp_path, f"{web}/absent.jsonl?token=secret")
    assert "secret" not in str(caught.value)
    with pytest.raises(DataError, match=r"/cut\.jsonl: cannot be fetched \(peer closed connection"):
        read_rows(tmp_path, f"{web}/cut.jsonl")
    with pytest.raises(DataError, match=r"/a\.jsonl: cannot be fetched \(.*refused"):
        read_rows(tmp_path, "http://127.0.0.1:1/a.jsonl")


def test_a_data_set_that_was_saved_is_read_in_its_order(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_list(PAIRS)
    made.save_to_disk(tmp_path / "made", num_shards=3)
    assert pairs(tmp_path, "made") == WHAT
    assert pairs(tmp_path, "made/") == WHAT
    files = source_files("made", tmp_path)
    assert [file.name for file in files] == [f"made/data-0000{n}-of-00003.arrow" for n in range(3)]
    datasets.DatasetDict({"train": made}).save_to_disk(tmp_path / "both")
    assert pairs(tmp_path, "both/train") == WHAT
    with pytest.raises(DataError, match=r"is a data set of several splits: .*both; name one of the folders"):
        source_files("both", tmp_path)


def test_a_saved_data_set_that_is_not_as_it_should_be_is_told(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    state.write_text('{"_data_files": [{"filename": "a.arrow"}], "_indices_files": null}')
    with pytest.raises(DataError, match=r"no such file: .*a\.arrow"):
        source_files(str(tmp_path), tmp_path)
    state.write_text('{"_data_files": [], "_indices_files": [{"filename": "b.arrow"}]}')
    with pytest.raises(DataError, match=r"is a selection of rows: .*flatten_indices"):
        source_files(str(tmp_path), tmp_path)
    for text in ('{"_data_files": 3}', "{}", "[", "[]"):
        state.write_text(text)
        with pytest.raises(DataError, match=r"its state\.json is not one of `datasets`"):
            source_files(str(tmp_path), tmp_path)


def test_a_digest_covers_every_file_of_a_source(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(ROW)
    (tmp_path / "b.jsonl").write_bytes(ROW)

    def digest() -> str:
        source = {"kind": "file", "path": "*.jsonl", "task": "task"}
        data = Data.model_validate({"sources": [source]})
        return source_digests(data, spec_dir=tmp_path, assets_dir=tmp_path)["file:*.jsonl"]

    seen = [digest(), digest()]
    assert len(set(seen)) == 1
    (tmp_path / "b.jsonl").write_bytes(ROW + b"\n")
    seen.append(digest())
    (tmp_path / "b.jsonl").rename(tmp_path / "c.jsonl")
    seen.append(digest())
    (tmp_path / "d.jsonl").write_bytes(ROW)
    seen.append(digest())
    assert len(set(seen)) == 4


def test_a_digest_covers_what_lies_behind_a_url(tmp_path: Path, web: str) -> None:
    data = Data.model_validate(
        {"sources": [{"kind": "file", "path": f"{web}/a.jsonl?key=1", "task": "task"}]}
    )
    seen = set()
    for content in (ROW, ROW, ROW + b"\n"):
        (tmp_path / "a.jsonl").write_bytes(content)
        seen.add(source_digests(data, spec_dir=tmp_path, assets_dir=tmp_path)[f"file:{web}/a.jsonl"])
    assert len(seen) == 2


def copies() -> list[tuple[str, int]]:
    """The kept copies of files that lie elsewhere, each with the time when it was fetched."""
    folder = Settings.read().cache_dir / "sources"
    return [(each.name, each.stat().st_mtime_ns) for each in folder.iterdir()] if folder.exists() else []


@pytest.mark.parametrize("name", ["tagged.jsonl", "weak.jsonl"])
def test_what_lies_behind_a_url_is_fetched_once_a_version_if_its_server_tells_versions_apart(
    tmp_path: Path, web: str, name: str
) -> None:
    data = Data.model_validate({"sources": [{"kind": "file", "path": f"{web}/{name}", "task": "task"}]})
    kept: list[tuple[str, int]] = []
    seen = set()
    for content in (ROW, ROW, ROW + b"\n" + ROW):
        (tmp_path / name).write_bytes(content)
        seen.add(source_digests(data, spec_dir=tmp_path, assets_dir=tmp_path)[f"file:{web}/{name}"])
        assert len(read_rows(tmp_path, f"{web}/{name}")) == content.count(ROW)
        kept += copies()
    assert len(seen) == 2
    if name == "weak.jsonl":
        assert kept == []
    else:
        assert kept[0] == kept[1] != kept[2]
        assert len(kept) == 3


def test_an_object_is_copied_once_a_version(tmp_path: Path, s3_url: str) -> None:
    query = s3_url.partition("?")[2]
    filesystem, _ = fs.FileSystem.from_uri(f"s3://bucket?{query}")
    filesystem.create_dir("bucket")
    path = f"bucket/{tmp_path.name}/a.jsonl"
    kept = []
    for content in (ROW, ROW + b"\n" + ROW):
        with filesystem.open_output_stream(path) as stream:
            stream.write(content)
        for _ in range(2):
            assert len(read_rows(tmp_path, f"s3://{path}?{query}")) == content.count(ROW)
            kept += copies()
    assert kept[0] == kept[1] != kept[2] == kept[3]
    assert len(kept) == 4


def test_a_fetch_that_breaks_off_leaves_nothing_behind(tmp_path: Path, web: str) -> None:
    (tmp_path / "tagged.jsonl").write_bytes(ROW)
    first = read_rows(tmp_path, f"{web}/tagged.jsonl")
    (tmp_path / "tagged_cut.jsonl").write_bytes(ROW)
    with pytest.raises(DataError, match=r"/tagged_cut\.jsonl: cannot be fetched \(peer closed connection"):
        read_rows(tmp_path, f"{web}/tagged_cut.jsonl")
    assert len(copies()) == len(first) == 1


@pytest.mark.parametrize("read", [0, 1, -1])
def test_a_file_is_hashed_whole_however_far_it_is_read(tmp_path: Path, read: int) -> None:
    content = os.urandom(5_000_001)
    (tmp_path / "a.jsonl").write_bytes(content)
    hashing = Hashing(*source_files("a.jsonl", tmp_path))
    with hashing.open() as stream:
        assert stream.read(read) == content[: read if read >= 0 else None]
    assert hashing.known() == hashlib.sha256(content).hexdigest()


def test_a_file_that_is_no_file_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match=r"is no regular file: .*a\.jsonl"):
        source_files("a.jsonl", tmp_path)
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    with pytest.raises(DataError, match=r"cannot be read \(Too many levels"):
        source_files("loo*", tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "up").symlink_to("..")
    (tmp_path / "folder" / "b.jsonl").write_bytes(ROW)
    assert [file.name for file in source_files("folder/**/*.jsonl", tmp_path)] == ["folder/b.jsonl"]
