"""The one way to artifacts: a local folder or `s3://`, through pyarrow.fs."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout
from pyarrow import fs

from tunebook_spec.errors import LockedError, StoreError

logger = logging.getLogger(__name__)

LEASE_S = 60.0
_BLOCK_BYTES = 4 * 2**20


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and all that it came from."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def is_disk_full(error: BaseException) -> bool:
    """Whether a file could not be written for want of space; not all libraries raise an OSError then."""
    full = os.strerror(errno.ENOSPC)
    return any(full in str(each) or getattr(each, "errno", None) == errno.ENOSPC for each in causes(error))


class Store:
    """Files under one storage URL, by key (`medical/stages/prepare-0123456789ab/artifact.json`)."""

    def __init__(self, url: str, cache_dir: Path) -> None:
        self.url = url
        self.cache_dir = cache_dir
        self.local_root = None if "://" in url else Path(url).expanduser().resolve()
        try:
            if self.local_root is not None:
                self.filesystem, self.root = fs.LocalFileSystem(), str(self.local_root)
            else:
                self.filesystem, self.root = fs.FileSystem.from_uri(url)
        except (OSError, ValueError) as error:
            raise StoreError(
                f"storage URL {url!r} cannot be opened: {error}; set TUNEBOOK_STORAGE_URL"
            ) from error

    def path(self, key: str) -> str:
        """The key as the filesystem spells it."""
        return str(PurePosixPath(self.root) / key)

    def exists(self, key: str) -> bool:
        return bool(self.filesystem.get_file_info(self.path(key)).type != fs.FileType.NotFound)

    def read(self, key: str) -> bytes:
        """Raises FileNotFoundError if there is no such file."""
        with self.filesystem.open_input_stream(self.path(key)) as stream:
            return bytes(stream.read())

    def sha256(self, key: str) -> str:
        """Of what the store holds, whatever copy of it this machine has.

        Raises FileNotFoundError if there is no such file.
        """
        digest = hashlib.sha256()
        with self.filesystem.open_input_stream(self.path(key)) as stream:
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
        return digest.hexdigest()

    def seconds_since(self, key: str) -> float | None:
        """Since a file was last written; None where there is none."""
        info = self.filesystem.get_file_info(self.path(key))
        return None if info.mtime_ns is None else time.time() - info.mtime_ns / 1e9

    def write(self, key: str, content: bytes) -> None:
        """Whole or not at all: a rename locally, one PUT remotely."""
        if self.local_root is None:
            try:
                with self.filesystem.open_output_stream(self.path(key)) as stream:
                    stream.write(content)
            except OSError as error:
                message = f"{key} cannot be written under {self.url.split('?')[0]}: {error}"
                raise StoreError(f"{message}; see TUNEBOOK_STORAGE_URL and the credentials") from error
            return
        target = self.local_root / key
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
        try:
            part.write_bytes(content)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    def list_files(self, key: str) -> list[str]:
        """Keys of the files under a key, those in its folders too."""
        selector = fs.FileSelector(self.path(key), allow_not_found=True, recursive=True)
        infos = self.filesystem.get_file_info(selector)
        files = (info.path for info in infos if info.type == fs.FileType.File)
        return sorted(str(PurePosixPath(path).relative_to(self.root)) for path in files)

    def list(self, key: str, *, recursive: bool = False) -> list[str]:
        """Keys of the files and folders under a key; empty if it does not exist."""
        selector = fs.FileSelector(self.path(key), allow_not_found=True, recursive=recursive)
        infos = self.filesystem.get_file_info(selector)
        return sorted(str(PurePosixPath(info.path).relative_to(self.root)) for info in infos)

    def delete(self, key: str) -> None:
        info = self.filesystem.get_file_info(self.path(key))
        if info.type == fs.FileType.Directory:
            self.filesystem.delete_dir(info.path)
        elif info.type == fs.FileType.File:
            self.filesystem.delete_file(info.path)

    def size(self, key: str) -> int:
        """Bytes under a key."""
        selector = fs.FileSelector(self.path(key), allow_not_found=True, recursive=True)
        return sum(info.size or 0 for info in self.filesystem.get_file_info(selector))

    def folder(self, key: str) -> Path:
        """Where this machine works on a key: the place itself if local, a copy in the cache if remote."""
        if self.local_root is not None:
            return self.local_root / key
        place = self.url.split("?")[0].replace("://", "-").replace("/", "-")
        return self.cache_dir / "remote" / place / key

    def key_of(self, folder: Path) -> str | None:
        """The key that a folder of this machine was downloaded from; None if it was not."""
        place = self.folder("")
        return folder.relative_to(place).as_posix() if folder.is_relative_to(place) else None

    def download(self, key: str, without: Collection[str] = ()) -> Path:
        """Bring what is missing of a remote folder to this machine, without some of what lies in it."""
        folder = self.folder(key)
        if self.local_root is not None:
            return folder
        selector = fs.FileSelector(self.path(key), allow_not_found=True, recursive=True)
        for info in self.filesystem.get_file_info(selector):
            name = PurePosixPath(info.path).relative_to(self.path(key))
            target = folder / name
            if name.parts[0] in without:
                continue
            if info.type != fs.FileType.File or (target.exists() and target.stat().st_size == info.size):
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
            fs.copy_files(info.path, str(part), source_filesystem=self.filesystem)
            part.replace(target)
        return folder

    def upload(self, key: str, *relative: str) -> None:
        """Send files of a key's local folder to the store; nothing to do where the store is that folder."""
        if self.local_root is not None:
            return
        for name in relative:
            self.put(self.folder(key) / name, f"{key}/{name}")

    def put(self, source: Path, key: str) -> None:
        """Send one file from anywhere on this machine to a key, whole or not at all."""
        if self.local_root is not None:
            target = self.local_root / key
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
            try:
                shutil.copyfile(source, part)
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)
            return
        fs.copy_files(str(source), self.path(key), destination_filesystem=self.filesystem)

    @contextmanager
    def lock(self, key: str, *, wait_s: float = 0.0) -> Iterator[None]:
        """Be the one writer of a key.

        Locally a file lock, which dies with its process. Remotely a lease that is renewed while held: it
        narrows a race to the width of one PUT, and what it guards is content-addressed.

        Raises:
            LockedError: another run holds it for longer than `wait_s`.
        """
        hold = self._file_lock if self.local_root is not None else self._lease
        with hold(key, wait_s):
            yield

    @contextmanager
    def _file_lock(self, key: str, wait_s: float) -> Iterator[None]:
        assert self.local_root is not None
        path = self.local_root / f"{key}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=wait_s)
        except Timeout:
            raise LockedError(f"{key} is being written by another run; wait for it or stop it") from None
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _lease(self, key: str, wait_s: float) -> Iterator[None]:
        name, owner = f"{key}.lease", f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        deadline, is_told = time.monotonic() + wait_s, False
        while (holder := self._holder(name)) is not None:
            if time.monotonic() >= deadline:
                raise LockedError(f"{key} is being written by {holder}; wait for it or stop it")
            if not is_told:
                logger.info("%s is held by %s; waiting %.0f s at most", key, holder, wait_s)
                is_told = True
            time.sleep(1.0)
        self._renew(name, owner)
        if self._holder(name) != owner:
            raise LockedError(f"{key} was taken by {self._holder(name)} in the same moment; run again")
        stop = threading.Event()

        def keep() -> None:
            while not stop.wait(LEASE_S / 4):
                self._renew(name, owner)

        keeper = threading.Thread(target=keep, daemon=True)
        keeper.start()
        try:
            yield
        finally:
            stop.set()
            keeper.join()
            self.delete(name)

    def _holder(self, name: str) -> str | None:
        """Who holds a lease that has not run out."""
        try:
            lease = json.loads(self.read(name))
        except FileNotFoundError:
            return None
        return str(lease["owner"]) if lease["until"] > time.time() else None

    def _renew(self, name: str, owner: str) -> None:
        self.write(name, json.dumps({"owner": owner, "until": time.time() + LEASE_S}).encode())
