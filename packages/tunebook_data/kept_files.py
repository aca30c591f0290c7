"""Copies of files that lie elsewhere: a version of a file is fetched once and read as often as needed."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

from tunebook_run.settings import Settings


def opened(place: str, version: str | None, fill: Callable[[BinaryIO], None]) -> BinaryIO:
    """The content of a file, from the copy of that version if there is one.

    Args:
        place: where the file lies; not told in any name.
        version: changes whenever its content does; None: nobody says, so that no copy is kept.
        fill: fetches it into an open file.
    """
    if version is None:
        return _filled(cast(BinaryIO, tempfile.TemporaryFile()), fill)
    folder = Settings.read().cache_dir / "sources"
    prefix, suffix = (hashlib.sha256(each.encode()).hexdigest() for each in (place, version))
    kept = folder / f"{prefix}-{suffix}"
    try:
        return kept.open("rb")
    except FileNotFoundError:
        folder.mkdir(parents=True, exist_ok=True)
    file = _keep(kept, fill)
    for other in folder.glob(f"{prefix}-*"):
        if other != kept:
            other.unlink(missing_ok=True)
    return file


def _keep(kept: Path, fill: Callable[[BinaryIO], None]) -> BinaryIO:
    """Fetch into a file that takes its name when it is whole."""
    file = tempfile.NamedTemporaryFile(dir=kept.parent, delete=False)
    try:
        _filled(cast(BinaryIO, file), fill)
        file.flush()
        os.replace(file.name, kept)
    except BaseException:
        file.close()
        os.unlink(file.name)
        raise
    return cast(BinaryIO, file)


def _filled(file: BinaryIO, fill: Callable[[BinaryIO], None]) -> BinaryIO:
    try:
        fill(file)
    except BaseException:
        file.close()
        raise
    file.seek(0)
    return file
