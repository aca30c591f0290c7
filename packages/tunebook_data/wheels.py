"""Data packages read as files: pinned by version and SHA-256, never installed or imported."""

from __future__ import annotations

import ast
import hashlib
import re
import zipfile
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from tunebook_spec.errors import DataError

_PIN = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>\S+)\s+--hash=sha256:(?P<sha256>[0-9a-f]{64})$")


def pinned_wheels(package: str = "tunebook_data") -> dict[str, tuple[str, str]]:
    """Distribution name -> (version, SHA-256), as `assets.txt` of a package pins them for set-up."""
    lines = files(package).joinpath("assets.txt").read_text(encoding="utf-8").splitlines()
    pins = [_PIN.match(line.strip()) for line in lines]
    return {pin["name"]: (pin["version"], pin["sha256"]) for pin in pins if pin}


def read_member(assets_dir: Path, wheel: str, member: str, *, package: str = "tunebook_data") -> bytes:
    """One file out of a pinned wheel.

    Args:
        assets_dir: the folder that set-up fills; wheels lie in its `wheels` folder.
        wheel: the distribution's name, as in `assets.txt`.
        member: path inside the wheel.
        package: ours, whose `assets.txt` pins the wheel.

    Raises:
        DataError: the wheel is not pinned, not there, not the pinned file, or lacks the member.
    """
    path = _verified(assets_dir, wheel, pinned_wheels(package))
    with zipfile.ZipFile(path) as archive:
        if member not in archive.namelist():
            raise DataError(f"{path}: no file {member!r} inside; `assets.txt` pins a version that lacks it")
        return archive.read(member)


def read_members(assets_dir: Path, wheel: str, suffix: str) -> Iterator[tuple[str, bytes]]:
    """Path and content of all files of a pinned wheel that end so, in the order of their paths.

    Raises:
        DataError: the wheel is not pinned, not there, or not the pinned file.
    """
    path = _verified(assets_dir, wheel, pinned_wheels())
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(suffix):
                yield name, archive.read(name)


def literal(source: bytes, name: str) -> Any:
    """The literal that a Python source assigns to `name`, parsed and never executed.

    Raises:
        DataError: no such assignment, or not a plain literal.
    """
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            try:
                return ast.literal_eval(node.value)  # type: ignore[attr-defined]
            except ValueError as error:
                raise DataError(f"{name!r} is not a plain literal ({error})") from error
    raise DataError(f"no assignment to {name!r} in this source")


def _verified(assets_dir: Path, wheel: str, pins: Mapping[str, tuple[str, str]]) -> Path:
    if wheel not in pins:
        raise DataError(f"{wheel!r} is no pinned data package; assets.txt has {', '.join(sorted(pins))}")
    version, sha256 = pins[wheel]
    found = sorted((assets_dir / "wheels").glob(f"{wheel.replace('-', '_')}-{version}-*.whl"))
    if not found:
        raise DataError(f"{wheel} {version} is not in {assets_dir / 'wheels'}; run `make setup`")
    actual = _sha256(found[0], found[0].stat().st_mtime_ns)
    if actual != sha256:
        raise DataError(
            f"{found[0]}: sha256 is {actual}, assets.txt pins {sha256}; delete it and run `make setup`"
        )
    return found[0]


@lru_cache(maxsize=32)
def _sha256(path: Path, mtime_ns: int) -> str:
    """Cached per file version: one data set reads several members of one wheel."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
