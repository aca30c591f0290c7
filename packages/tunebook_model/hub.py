"""Repositories of the Hugging Face hub in its own cache: of models their weights and texts, never code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import httpx2
from huggingface_hub import snapshot_download

from tunebook_model.folder import BEHAVIOUR_FILES
from tunebook_spec.errors import ModelError

_ELSEWHERE = ["*/*", "consolidated*"]
"""Copies of the weights in other layouts."""
_CALLED = {"model": "base model", "dataset": "data set"}


def snapshot(repo: str, revision: str, *, online: bool, token: str | None) -> Path:
    """The folder of a model at one commit, without code; as `download`."""
    patterns = [*BEHAVIOUR_FILES, "vocab.json", "merges.txt"]
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
        raise ModelError(
            f"{_CALLED[kind]} {repo!r} at revision {revision!r}: {way_out}\n  the hub's client: {reason}"
        ) from None
