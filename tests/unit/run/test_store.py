from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from tunebook_run.store import Store
from tunebook_spec.errors import LockedError, StoreError


def test_what_is_written_is_read_back_listed_and_deleted(store: Store) -> None:
    store.write("a/b/one.json", b"1")
    store.write("a/b/two.json", b"22")
    assert store.read("a/b/two.json") == b"22"
    assert store.list("a/b") == ["a/b/one.json", "a/b/two.json"]
    assert store.size("a") == 3
    store.delete("a/b")
    assert not store.exists("a/b/one.json")
    with pytest.raises(FileNotFoundError):
        store.read("a/b/one.json")


def test_files_are_listed_and_hashed_as_the_store_holds_them(store: Store) -> None:
    store.write("a/one.json", b"1")
    store.write("a/b/two.json", b"22")
    assert store.list_files("a") == ["a/b/two.json", "a/one.json"]
    assert store.list_files("none") == []
    assert store.sha256("a/b/two.json") == hashlib.sha256(b"22").hexdigest()
    with pytest.raises(FileNotFoundError):
        store.sha256("a/none.json")
    since = store.seconds_since("a/one.json")
    assert since is not None
    assert -2 < since < 60
    assert store.seconds_since("a/none.json") is None


def test_a_write_replaces_whole_files(store: Store) -> None:
    store.write("x", b"a longer first version")
    store.write("x", b"short")
    assert store.read("x") == b"short"
    assert store.list("") == ["x"]


def test_a_folder_made_here_is_found_by_another_machine(store: Store, tmp_path: Path) -> None:
    folder = store.folder("m/stages/prepare-1")
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "rows.jsonl").write_text("row\n")
    store.upload("m/stages/prepare-1", "sub/rows.jsonl")
    elsewhere = Store(store.url, tmp_path / "other cache")
    assert (elsewhere.download("m/stages/prepare-1") / "sub" / "rows.jsonl").read_text() == "row\n"


def test_only_one_writer_at_a_time(store: Store, tmp_path: Path) -> None:
    other = Store(store.url, tmp_path / "cache")
    with store.lock("m/stages/train-1"), pytest.raises(LockedError, match="is being written by"):
        with other.lock("m/stages/train-1"):
            raise AssertionError
    with other.lock("m/stages/train-1"):
        pass


def test_a_killed_writer_leaves_no_local_lock(tmp_path: Path) -> None:
    code = (
        "import os, pathlib\n"
        "from tunebook_run.store import Store\n"
        f"with Store({str(tmp_path)!r}, pathlib.Path({str(tmp_path)!r})).lock('k'):\n"
        "    os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    with Store(str(tmp_path), tmp_path).lock("k"):
        pass


def test_a_lease_that_ran_out_is_taken_over(s3_url: str, tmp_path: Path) -> None:
    store = Store(s3_url, tmp_path)
    store.filesystem.create_dir("bucket")
    store.write("k.lease", b'{"owner": "gone", "until": 1.0}')
    with store.lock("k"):
        assert b"gone" not in store.read("k.lease")


def test_an_unknown_scheme_is_named() -> None:
    with pytest.raises(StoreError, match="storage URL 'ftp://x/y' cannot be opened"):
        Store("ftp://x/y", Path())


def test_a_missing_bucket_is_named(s3_url: str, tmp_path: Path) -> None:
    store = Store(s3_url.replace("bucket/runs", "absent/runs"), tmp_path)
    with pytest.raises(StoreError, match=r"numbers\.lease cannot be written under s3://absent/runs"):
        with store.lock("numbers"):
            raise AssertionError
