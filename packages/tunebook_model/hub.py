"""Repositories of the Hugging Face hub in its own cache: of models their weights and texts, never code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import httpx2
from huggingface_hub import HfApi, snapshot_download

from tunebook_model.folder import BEHAVIOUR_FILES
from tunebook_spec.errors import ModelError

_ELSEWHERE = ["*/*", "consolidated*"]
"""Copies of the weights in other layouts."""
_CALLED = {"model": "base model", "dataset": "data set"}


def snapshot(repo: str, revision: str, *, online: bool, token: str | None) -> Path:
    """The folder of a model at one commit, without code; as `download`."""
    patterns = [*BEHAVIOUR_FILES, "vocab.json", "merges.txt", "README.md"]  # the last tells the licence
    return download(repo, revision, "model", patterns, _ELSEWHERE, online=online, token=token)


def download(
    repo: str,
    revision: str,
    kind: Literal["model", "dataset"],
    patterns: Sequence[str],
    without: Sequence[str] = (),
    *,
    online: bool,
    token: str | None,
) -> Path:
    """The folder of one commit in the hub's own cache, downloaded first if the hub may be asked.

    Raises:
        ModelError: offline and not in the cache, the hub refuses, or the connection breaks off; what has been
            downloaded is kept.
    """
    try:
        return Path(
            snapshot_download(
                repo,
                repo_type=kind,
                revision=revision,
                token=token or False,
                local_files_only=not online,
                allow_patterns=list(patterns),
                ignore_patterns=list(without),
            )
        )
    except (OSError, httpx2.HTTPError) as error:
        raise _refused(error, repo, revision, kind, online=online) from None


def commit_of(repo: str, revision: str, *, online: bool, token: str | None) -> str:
    """The commit that a branch or tag of a model is at now: 40 hex digits.

    Raises:
        ModelError: the hub may not be asked, refuses, or the connection breaks off.
    """
    if not online:
        message = "only the hub knows its commit; set TUNEBOOK_HUB_ONLINE=true to ask it"
        raise ModelError(f"base model {repo!r} at revision {revision!r}: {message}")
    try:
        commit = HfApi(token=token or False).model_info(repo, revision=revision).sha
    except (OSError, httpx2.HTTPError) as error:
        raise _refused(error, repo, revision, "model", online=True) from None
    assert commit is not None, "the hub tells the commit of every revision"
    return commit


def _refused(
    error: Exception, repo: str, revision: str, kind: Literal["model", "dataset"], *, online: bool
) -> ModelError:
    """What to do where the hub's client gave up."""
    reason = str(error).strip().splitlines()[0]
    if online and isinstance(error, httpx2.TransportError):
        way_out = "the connection broke off; run again to go on with the download"
    elif online:
        way_out = "check the repository's name and revision; for a gated one set TUNEBOOK_HF_TOKEN"
    else:
        way_out = (
            "it is not complete in the local cache; set TUNEBOOK_HUB_ONLINE=true to download it"
            " (and TUNEBOOK_HF_TOKEN for a gated one)"
        )
    return ModelError(
        f"{_CALLED[kind]} {repo!r} at revision {revision!r}: {way_out}\n  the hub's client: {reason}"
    )
