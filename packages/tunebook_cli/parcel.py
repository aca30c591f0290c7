"""What a submitted run takes along: the spec, the files that it names, our code, and settings."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from pydantic import BaseModel
from pydantic_settings import DotEnvSettingsSource, EnvSettingsSource

from tunebook_cli.submitted import ENVIRONMENT
from tunebook_data.source_files import source_files
from tunebook_run.settings import Settings
from tunebook_spec import LoadedSpec
from tunebook_spec.base_model import FolderModel, GgufModel, ScriptedModel
from tunebook_spec.data import FileSource
from tunebook_spec.errors import InputError
from tunebook_spec.evaluation import FileSet
from tunebook_spec.metrics import Judged

MOST_BYTES = 512 << 20
"""Ray's head keeps what jobs bring in memory, and refuses more than this."""
PROJECT = "project"
OF_THIS_MACHINE = {"ray_address", "assets_dir", "cache_dir", "gateway"}
"""Settings that say nothing of a cluster, or that no run reads."""
OF_LIBRARIES = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"),
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_EC2_METADATA_DISABLED"),
    *("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
)
"""What the store and the tracking server are reached by, and names no file of this machine."""


@dataclass(frozen=True)
class Parcel:
    spec: str
    """Where the spec lies in it."""
    files: Mapping[str, Path]
    """The spec and what it names, by their places in the parcel: as far from one another as they were."""


def parcel(loaded: LoadedSpec) -> Parcel:
    """What belongs to a spec on this machine; absolute paths and URLs are read on the cluster as they are.

    Raises:
        InputError: a file is missing, or all are more than Ray takes.
    """
    folder = loaded.path.parent.resolve()
    spec = loaded.spec
    used = spec.model_copy(update={"models": {role: spec.models[role] for role in spec.roles}})
    named = {Path(os.path.normpath(file)) for path in _paths(used) for file in _files(path, folder)}
    named.add(folder / loaded.path.name)
    root = Path(os.path.commonpath([folder, *(file.parent for file in named)]))
    files = {f"{PROJECT}/{file.relative_to(root).as_posix()}": file for file in sorted(named)}
    sizes = {file: file.stat().st_size for file in named}
    if (total := sum(sizes.values())) > MOST_BYTES:
        largest = max(sizes, key=lambda file: sizes[file])
        raise InputError(
            f"{loaded.path} and the files that it names are {total >> 20} MiB, and a Ray job brings at most"
            f" {MOST_BYTES >> 20}: put {largest} ({sizes[largest] >> 20} MiB) where all hosts read it, and"
            " name it by an absolute path or an s3:// URL"
        )
    return Parcel(f"{PROJECT}/{(folder / loaded.path.name).relative_to(root).as_posix()}", files)


def pack(files: Mapping[str, Path], environment: Mapping[str, str], target: Path) -> None:
    """Write files, our code and an environment into one archive, equal for equal contents."""
    us = distribution("tunebook")
    texts = {
        ENVIRONMENT: json.dumps(environment),
        f"tunebook-{us.version}.dist-info/METADATA": us.read_text("METADATA") or "",
    }
    with ZipFile(target, "w") as archive:
        for name, text in texts.items():
            archive.writestr(_entry(name), text)
        for name, path in {**dict(_code()), **files}.items():
            with path.open("rb") as source, archive.open(_entry(name), "w") as entry:
                shutil.copyfileobj(source, entry, 1 << 20)


def environment_to_send() -> dict[str, str]:
    """The settings of this machine's user that hold on a cluster too, as variables; with secrets."""
    sources = (DotEnvSettingsSource(Settings), EnvSettingsSource(Settings))
    known = {name: value for source in sources for name, value in source.env_vars.items()}
    ours = Settings.model_fields.keys() - OF_THIS_MACHINE
    settings = {
        name.upper(): value
        for name, value in known.items()
        if value is not None and name.removeprefix("tunebook_").split("__")[0] in ours
    }
    return settings | {name: os.environ[name] for name in OF_LIBRARIES if name in os.environ}


def _paths(part: object) -> Iterator[str]:
    """The paths of files that a part of a spec names."""
    match part:
        case FileSet(file=path) | FileSource(path=path) | FolderModel(path=path) | GgufModel(path=path):
            yield path
        case ScriptedModel(path=str(path)) | Judged(golden=str(path)):
            yield path
    inner: list[object] = []
    if isinstance(part, BaseModel):
        inner = [getattr(part, name) for name in type(part).model_fields]
    elif isinstance(part, Mapping):
        inner = [*part.values()]
    elif isinstance(part, tuple | list):
        inner = [*part]
    for each in inner:
        yield from _paths(each)


def _files(path: str, folder: Path) -> list[Path]:
    """The files of this machine behind a path of a spec."""
    if "://" in path or path.startswith(("/", "~")):
        return []
    here = folder / path
    if here.is_dir():
        return [file for file in here.rglob("*") if file.is_file()]
    return [folder / file.name for file in source_files(path, folder)]


def _code() -> Iterator[tuple[str, Path]]:
    packages = Path(__file__).parents[1]
    for package in sorted(packages.glob("tunebook_*")):
        for path in sorted(package.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path.relative_to(packages).as_posix(), path


def _entry(name: str) -> ZipInfo:
    entry = ZipInfo(name)  # of 1980, so that equal contents make equal archives
    entry.compress_type = ZIP_DEFLATED
    return entry
