"""Where the rows of a source lie: files of this machine, behind a URL, or in an object store."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

import httpx
import orjson
from pyarrow import fs

from tunebook_data import kept_files
from tunebook_spec.errors import DataError

_TIMEOUT_S = 30.0
_HASHED_BYTES = 1 << 20
"""What is read at once to be hashed."""


@dataclass(frozen=True)
class SourceFile:
    """One file that a source reads."""

    name: str
    """What rows and messages call it: the same on every machine, and without the query of a URL."""
    place: str
    """Where it lies; equal for two names of one file."""
    open: Callable[[], BinaryIO]
    """Opens it, seekable; what is not of this machine is fetched first, once for each version of it."""


@dataclass
class Hashing:
    """Opens a file, and hashes it beside whoever reads it."""

    file: SourceFile
    _sha256: Future[str] | None = None
    """None until it has been opened."""

    def open(self) -> BinaryIO:
        stream = self.file.open()
        pool = ThreadPoolExecutor(1)
        self._sha256 = pool.submit(_sha256, os.dup(stream.fileno()))
        pool.shutdown(wait=False)
        return stream

    def known(self) -> str:
        """The SHA-256; the file is opened for it if it has not been.

        Raises:
            DataError: it cannot be read to its end.
        """
        if self._sha256 is None:
            self.open().close()
        assert self._sha256 is not None
        try:
            return self._sha256.result()
        except OSError as error:
            raise DataError(f"{self.file.name}: cannot be read to its end ({error})") from None


def _sha256(descriptor: int) -> str:
    """Of a whole file, wherever others are in it; closes the descriptor."""
    made, num_bytes = hashlib.sha256(), 0
    try:
        while data := os.pread(descriptor, _HASHED_BYTES, num_bytes):
            made.update(data)
            num_bytes += len(data)
    finally:
        os.close(descriptor)
    return made.hexdigest()


def source_files(path: str, spec_dir: Path) -> list[SourceFile]:
    """The files that a path of a spec leads to, in the order of their names.

    Args:
        path: as in `FileSource.path`.
        spec_dir: what it is relative to.

    Raises:
        DataError: there is none, or one of them cannot be read.
    """
    match path.partition("://")[0] if "://" in path else None:
        case "http" | "https":
            name = public_name(path)
            return [SourceFile(name, path, partial(_get, path, name))]
        case "s3":
            return _stored(path)
    return _local(path, spec_dir)


def public_name(path: str) -> str:
    """A path of a spec without the query of a URL, which may hold what nobody should read."""
    return path.partition("?")[0].partition("#")[0] if "://" in path else path


def _local(path: str, spec_dir: Path) -> list[SourceFile]:
    here = spec_dir / os.path.expanduser(path)
    if (here / "state.json").is_file():
        return _saved_dataset(path, here)
    if (here / "dataset_dict.json").is_file():
        raise DataError(f"is a data set of several splits: {here}; name one of the folders in it")
    if os.path.lexists(here) or not is_glob(path):
        return [_local_file(path, here)]
    head, pattern = _split_glob(path)
    folder = spec_dir / os.path.expanduser(head)
    try:
        found = [each.relative_to(folder) for each in folder.glob(pattern) if not each.is_dir()]
    except ValueError as error:
        raise DataError(f"is no glob: {path!r} ({error})") from None
    names = sorted(each.as_posix() for each in found if not any(p.startswith(".") for p in each.parts))
    if not names:
        raise DataError(f"no file matches: {os.path.realpath(folder)}/{pattern}")
    return [_local_file(f"{head}{name}", folder / name) for name in names]


def _local_file(name: str, path: Path) -> SourceFile:
    place = os.path.realpath(path)
    try:
        info = path.stat()
        if stat.S_ISDIR(info.st_mode):
            raise DataError(f"is a folder: {place}; name its files by a glob, such as {name}/*.jsonl")
        if not stat.S_ISREG(info.st_mode):
            raise DataError(f"is no regular file: {place}")
        path.open("rb").close()
    except FileNotFoundError:
        raise DataError(f"no such file: {place}; paths of a spec are relative to its folder") from None
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror}): {place}") from None
    if not info.st_size:
        raise DataError(f"is an empty file: {place}")
    return SourceFile(name, place, partial(cast("Callable[..., BinaryIO]", open), path, "rb"))


def _saved_dataset(name: str, folder: Path) -> list[SourceFile]:
    """The Arrow files of a folder that `datasets.Dataset.save_to_disk` wrote, in the order that it gives."""
    try:
        state = orjson.loads((folder / "state.json").read_bytes())
        files = [each["filename"] for each in state["_data_files"]]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(f"its state.json is not one of `datasets` ({error!r}): {folder}") from None
    if state.get("_indices_files"):
        raise DataError(f"is a selection of rows: {folder}; save it again after `flatten_indices()`")
    return [_local_file(f"{name.rstrip('/')}/{file}", folder / file) for file in files]


def _stored(path: str) -> list[SourceFile]:
    base, question, query = path.partition("?")
    bucket, _, key = base.removeprefix("s3://").partition("/")
    try:
        filesystem, _ = fs.FileSystem.from_uri(f"s3://{bucket}{question}{query}")
        found = _listed(filesystem, bucket, key)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read ({error}): {base}") from None
    files = []
    for info in found:
        name = f"s3://{info.path}"
        if info.type == fs.FileType.Directory:
            raise DataError(f"is a folder: {name}; name its files by a glob, such as {name}/*.jsonl")
        if info.type == fs.FileType.NotFound:
            raise DataError(f"no such file: {name}")
        if not info.size:
            raise DataError(f"is an empty file: {name}")
        version = f"{query}\0{info.mtime_ns}\0{info.size}"
        copy = partial(_copy, filesystem, info.path)
        files.append(SourceFile(name, name, partial(kept_files.opened, name, version, copy)))
    if not files:
        raise DataError(f"no file matches: {base}")
    return files


def _listed(filesystem: fs.FileSystem, bucket: str, key: str) -> list[fs.FileInfo]:
    if not is_glob(key):
        return [filesystem.get_file_info(f"{bucket}/{key}".rstrip("/"))]
    head, pattern = _split_glob(f"{bucket}/{key}")
    selector = fs.FileSelector(head.rstrip("/"), allow_not_found=True, recursive=True)
    parts = [(info, info.path.removeprefix(head).split("/")) for info in filesystem.get_file_info(selector)]
    found = [
        info
        for info, names in parts
        if info.type == fs.FileType.File
        and not any(name.startswith(".") for name in names)
        and _matches(names, pattern.split("/"))
    ]
    return sorted(found, key=lambda info: str(info.path))


def is_glob(path: str) -> bool:
    return bool(set(path) & set("*?["))


def _split_glob(path: str) -> tuple[str, str]:
    """The folders before the first part with a wildcard, with their slash, and the rest."""
    parts = path.split("/")
    first = next(index for index, part in enumerate(parts) if is_glob(part))
    return "".join(f"{part}/" for part in parts[:first]), "/".join(parts[first:])


def _matches(names: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not names
    if pattern[0] == "**":
        return any(_matches(names[start:], pattern[1:]) for start in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], pattern[0]) and _matches(names[1:], pattern[1:])


def _copy(filesystem: fs.FileSystem, path: str, target: BinaryIO) -> None:
    with filesystem.open_input_stream(path) as stream:
        shutil.copyfileobj(stream, target, 1 << 20)


def _get(url: str, name: str) -> BinaryIO:
    # What is asked for is the file's own bytes: a server may not compress them on the way.
    headers = {"Accept-Encoding": "identity"}
    try:
        with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=_TIMEOUT_S) as response:
            if not response.is_success:
                raise DataError(f"{name}: cannot be fetched (HTTP {response.status_code})")
            tag = response.headers.get("ETag")
            # A weak one is shared by versions that differ in their bytes.
            version = None if tag is None or tag.startswith("W/") else tag
            return kept_files.opened(url, version, partial(_receive, response))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DataError(f"{name}: cannot be fetched ({error})") from None


def _receive(response: httpx.Response, target: BinaryIO) -> None:
    for chunk in response.iter_bytes():
        target.write(chunk)
