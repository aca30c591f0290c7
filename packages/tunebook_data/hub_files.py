"""Data sets of the Hugging Face hub: files in its cache, fetched where the machine's settings allow it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tunebook_data.source_files import SourceFile, source_files
from tunebook_run.settings import Settings
from tunebook_spec.data import HubSource
from tunebook_spec.errors import DataError, ModelError


def fetch(source: HubSource) -> None:
    """Bring the files of a source into the cache, as they are at its revision now, if the hub may be asked.

    What reads them afterwards asks nobody: a branch that moves meanwhile changes nothing.

    Raises:
        DataError: the hub may not be asked and the cache does not hold them, the hub refuses, or it has none.
    """
    settings = Settings.read()
    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    folder = _snapshot(source, online=settings.hub_online, token=token)
    if not folder.is_dir():
        raise DataError(f"no file matches: {hub_name(source)}/{source.path}{_others(source)}")


def hub_files(source: HubSource) -> list[SourceFile]:
    """The files of a source that the cache holds, in the order of their names.

    Raises:
        DataError: it does not hold all of them, or the repository has none.
    """
    folder = _snapshot(source, online=False, token=None)
    try:
        files = source_files(source.path, folder)
    except DataError as error:
        raise DataError(f"{str(error).replace(str(folder), hub_name(source))}{_others(source)}") from None
    return [replace(file, name=f"{hub_name(source)}/{file.name}") for file in files]


def hub_name(source: HubSource) -> str:
    return f"{source.repo}@{source.revision}"


def _snapshot(source: HubSource, *, online: bool, token: str | None) -> Path:
    from tunebook_model.hub import download

    patterns = [source.path, f"{source.path.rstrip('/')}/*"]
    try:
        return download(source.repo, source.revision, "dataset", patterns, online=online, token=token)
    except ModelError as error:
        raise DataError(str(error)) from None


def _others(source: HubSource) -> str:
    """What the repository has instead."""
    from huggingface_hub import get_cached_repo_tree

    tree = get_cached_repo_tree(source.repo, revision=source.revision, repo_type="dataset")
    names = sorted(each.path for each in tree)
    return f"; the repository holds {', '.join(names[:20]) or 'no file'}"
