"""Models from the Hugging Face hub: safetensors, tokenizer and config alone, never code."""

from __future__ import annotations

from pathlib import Path

import httpx2
from huggingface_hub import snapshot_download

from tunebook_model.folder import BEHAVIOUR_FILES
from tunebook_spec.errors import ModelError

_ELSEWHERE = ["*/*", "consolidated*"]
"""Copies of the weights in other layouts."""


def snapshot(repo: str, revision: str, *, online: bool, token: str | None) -> Path:
    """The folder of one commit in the hub's own cache, downloaded first if the hub may be asked.

    Raises:
        ModelError: offline and not in the cache, the hub refuses, or the connection breaks off; what has been
            downloaded is kept.
    """
    try:
        return Path(
            snapshot_download(
                repo,
                revision=revision,
                token=token or False,
                local_files_only=not online,
                allow_patterns=[*BEHAVIOUR_FILES, "vocab.json", "merges.txt"],
                ignore_patterns=_ELSEWHERE,
            )
        )
    except (OSError, httpx2.HTTPError) as error:
        reason = str(error).strip().splitlines()[0]
        if online and isinstance(error, httpx2.TransportError):
            way_out = "the connection broke off; run again to go on with the download"
        elif online:
            way_out = "check the repository's name and revision; for a gated model set TUNEBOOK_HF_TOKEN"
        else:
            way_out = (
                "it is not complete in the local cache; set TUNEBOOK_HUB_ONLINE=true to download it"
                " (and TUNEBOOK_HF_TOKEN for a gated model)"
            )
        raise ModelError(
            f"base model {repo!r} at revision {revision!r}: {way_out}\n  the hub's client: {reason}"
        ) from None
