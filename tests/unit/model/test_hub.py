from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.model.hub_server import Hub, serving
from tunebook_model.hub import snapshot
from tunebook_spec.errors import ModelError


@pytest.fixture
def hub(model_folder: Path, tmp_path: Path) -> Iterator[Hub]:
    with serving(model_folder, tmp_path / "hub") as server:
        yield server


def test_a_model_is_downloaded_whole_and_then_needs_no_hub(hub: Hub) -> None:
    (hub.folder / "README.md").write_text("tells its licence")
    folder = snapshot("owner/name", "main", online=True, token=None)
    assert (folder / "model.safetensors").read_bytes() == (hub.folder / "model.safetensors").read_bytes()
    assert (folder / "README.md").read_text() == "tells its licence", (
        "which the cards of what is made of it tell"
    )
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
