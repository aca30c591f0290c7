from __future__ import annotations

from pathlib import Path

from tunebook_model.shared_model import SharedModel, share_model
from tunebook_run.store import Store


def make_model(folder: Path) -> Path:
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text(name)
    return folder


def test_where_hosts_share_a_disk_a_model_stays_where_it_is(tmp_path: Path) -> None:
    model, store = make_model(tmp_path / "model"), Store(str(tmp_path / "runs"), tmp_path / "cache")
    shared = share_model(model, store)
    assert shared == SharedModel(str(model), None)
    assert shared.on_this_host(store) == model


def test_where_they_share_none_it_is_put_into_the_store_once(s3_url: str, tmp_path: Path) -> None:
    model, store = make_model(tmp_path / "model"), Store(s3_url, tmp_path / "here")
    store.filesystem.create_dir("bucket")
    shared = share_model(model, store)
    assert share_model(model, store) == shared
    there = shared.on_this_host(Store(s3_url, tmp_path / "there"))
    assert there.is_relative_to(tmp_path / "there")
    assert {path.name: path.read_text() for path in there.iterdir()} == {
        path.name: path.read_text() for path in model.iterdir()
    }


def test_what_came_from_the_store_is_not_put_there_again(s3_url: str, tmp_path: Path) -> None:
    store = Store(s3_url, tmp_path / "here")
    store.filesystem.create_dir("bucket")
    for path in make_model(tmp_path / "merged").iterdir():
        store.put(path, f"tiny/stages/merge-1/model/{path.name}")
    model = store.download("tiny/stages/merge-1") / "model"
    before = store.list_files("")
    assert share_model(model, store) == SharedModel(None, "tiny/stages/merge-1/model")
    assert store.list_files("") == before
