"""Names of things, as the protocol forms them."""

from __future__ import annotations

import re
import secrets
from typing import Literal

Kind = Literal["file-", "ftjob-", "ftevent-", "ftckpt_"]

_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
_LENGTH = 24  # 124 bits


def new_id(kind: Kind) -> str:
    return kind + "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))


def scenario_of(job: str) -> str:
    """The name that a job's runs and stages live under in the store."""
    return job.replace("-", "_")


def model_name(base: str, project: str, suffix: str | None, job: str) -> str:
    """`ft:<base>:<project>:<suffix>:<id>`; a base that was tuned already gives the name of its own base."""
    root = base.split(":")[1] if base.startswith("ft:") else base
    safe = re.sub(r"[^a-z0-9-]+", "-", (suffix or "").lower()).strip("-")
    return f"ft:{root}:{project}:{safe}:{job.removeprefix('ftjob-')[:8]}"


def checkpoint_name(model: str, step: int) -> str:
    return f"{model}:ckpt-step-{step}"
