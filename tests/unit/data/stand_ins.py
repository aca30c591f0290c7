"""Wheels of a test's own in the place of pinned ones."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tunebook_data import wheels


def stand_in(
    folder: Path,
    patch: pytest.MonkeyPatch,
    made: Mapping[tuple[str, str], Mapping[str, str | bytes]],
) -> Path:
    """A folder of assets with such files in wheels of such names and versions, pinned as they are."""
    (folder / "wheels").mkdir()
    pins = {}
    for (name, version), members in made.items():
        path = folder / "wheels" / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for member, content in members.items():
                archive.writestr(member, content)
        pins[name] = (version, hashlib.sha256(path.read_bytes()).hexdigest())
    patch.setattr(wheels, "pinned_wheels", lambda *_: pins)
    return folder
