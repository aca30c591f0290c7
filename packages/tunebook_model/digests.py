"""What a model is, as one digest: cheap to ask again, because each file's is kept."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tunebook_model.folder import BEHAVIOUR_FILES


def model_digest(folder: Path, cache_dir: Path) -> str:
    """sha256 over the names and contents of the files that decide what a model answers."""
    return files_digest(folder, BEHAVIOUR_FILES, cache_dir)


def files_digest(folder: Path, patterns: Iterable[str], cache_dir: Path) -> str:
    """sha256 over the names and contents of a folder's files that match any of the patterns."""
    files = sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})
    content = [[file.relative_to(folder).as_posix(), file_digest(file, cache_dir)] for file in files]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def file_digest(file: Path, cache_dir: Path) -> str:
    """sha256 of a file's content, read again only if its path, size or modification time is new."""
    stat = file.stat()
    identity = json.dumps([str(file.resolve()), stat.st_size, stat.st_mtime_ns])
    kept = cache_dir / "digests" / hashlib.sha256(identity.encode()).hexdigest()
    if kept.is_file():
        return kept.read_text()
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    _write_atomically(kept, digest)
    return digest


def _write_atomically(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
    os.replace(temporary, path)
