from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from tests.unit.data.reading import GOOD
from tests.unit.model.hub_server import Hub, serving
from tunebook_data.fingerprint import preflight, source_digests
from tunebook_data.rows import Row
from tunebook_data.sources import read_source
from tunebook_spec import LoadedSpec, load
from tunebook_spec.data import HubSource

SPEC = """\
version: 1
name: chat
base_model: {kind: builtin, name: smollm2-135m-instruct}
data:
  sources:
    - {kind: hub, repo: owner/name, path: "PATH", task: chat}
method: {kind: full}
evaluation:
  sets:
    chat: {task: chat, metrics: [exact_match]}
  gates:
    - {metric: chat.exact_match, at_least: 0.5}
"""


def line(n: int) -> bytes:
    return orjson.dumps({**GOOD, "n": n}) + b"\n"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A repository of two configurations, whose hub may be asked."""
    folder = tmp_path / "repository"
    for number, name in enumerate(
        ["en/train-1.jsonl", "en/train-0.jsonl", "en/test.jsonl", "de/train-0.jsonl"]
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(line(number))
    (folder / "README.md").write_text("# Chats")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNEBOOK_HUB_ONLINE", "true")
    with serving(folder, tmp_path / "hub") as server:
        yield server


@pytest.fixture
def spec(tmp_path: Path) -> LoadedSpec:
    return loaded(tmp_path, "en/train-*.jsonl")


def loaded(folder: Path, path: str) -> LoadedSpec:
    (folder / "chat.yaml").write_text(SPEC.replace("PATH", path))
    return load(folder / "chat.yaml")


def rows(spec: LoadedSpec, folder: Path) -> list[tuple[str, int]]:
    (source,) = spec.spec.data.sources
    parts = read_source(source, system=None, spec_dir=folder, assets_dir=folder, seed=0)
    items = [item for part in parts for item in part.items]
    return [(item.source, item.meta["n"]) for item in items if isinstance(item, Row)]


def digest(spec: LoadedSpec, folder: Path) -> str:
    digests = source_digests(spec.spec.data, spec_dir=folder, assets_dir=folder)
    return digests["hub:owner/name@main/en/train-*.jsonl"]


def test_the_files_that_a_path_names_are_read_in_order_and_nothing_else_is_fetched(
    hub: Hub, spec: LoadedSpec, tmp_path: Path
) -> None:
    assert preflight(spec, assets_dir=tmp_path) == []
    assert rows(spec, tmp_path) == [
        ("owner/name@main/en/train-0.jsonl", 1),
        ("owner/name@main/en/train-1.jsonl", 0),
    ]
    assert {path for path in hub.asked if "/resolve/" in path} == {
        f"/datasets/owner/name/resolve/{hub.commit}/en/train-{n}.jsonl" for n in range(2)
    }


def test_a_branch_that_moves_counts_when_the_next_run_looks_and_not_before(
    hub: Hub, spec: LoadedSpec, tmp_path: Path
) -> None:
    preflight(spec, assets_dir=tmp_path)
    before = digest(spec, tmp_path)
    hub.commit = "1" * 40
    (hub.folder / "en" / "train-0.jsonl").write_bytes(line(7))
    assert rows(spec, tmp_path)[0][1] == 1
    assert digest(spec, tmp_path) == before
    preflight(spec, assets_dir=tmp_path)
    assert rows(spec, tmp_path)[0][1] == 7
    assert digest(spec, tmp_path) != before


def test_the_hub_is_not_asked_unless_the_machine_allows_it(
    hub: Hub, spec: LoadedSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNEBOOK_HUB_ONLINE", "false")
    (problem,) = preflight(spec, assets_dir=tmp_path)
    assert str(problem).startswith("line 6, data.sources.0.path: data set 'owner/name' at revision 'main': ")
    assert "set TUNEBOOK_HUB_ONLINE=true to download it" in str(problem)
    assert hub.asked == []
    monkeypatch.setenv("TUNEBOOK_HUB_ONLINE", "true")
    assert preflight(spec, assets_dir=tmp_path) == []
    asked = len(hub.asked)
    monkeypatch.setenv("TUNEBOOK_HUB_ONLINE", "false")
    assert preflight(spec, assets_dir=tmp_path) == []
    assert len(rows(spec, tmp_path)) == 2
    assert len(hub.asked) == asked


def test_a_path_that_names_nothing_says_what_is_there(hub: Hub, tmp_path: Path) -> None:
    (problem,) = preflight(loaded(tmp_path, "data/*.parquet"), assets_dir=tmp_path)
    assert "no file matches: owner/name@main/data/*.parquet; the repository holds README.md, de/" in str(
        problem
    )


def test_a_repository_that_is_not_there_is_told(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "chat.yaml").write_text(SPEC.replace("owner/name", "owner/other").replace("PATH", "a.jsonl"))
    (problem,) = preflight(load(tmp_path / "chat.yaml"), assets_dir=tmp_path)
    assert "data set 'owner/other' at revision 'main': check the repository's name" in str(problem)


@pytest.mark.parametrize("path", ["/etc/passwd", "../a.jsonl", "a/../../b.jsonl", "~/a.jsonl", "http://a/b"])
def test_a_path_stays_in_its_repository(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        HubSource(kind="hub", task="chat", repo="owner/name", path=path)
