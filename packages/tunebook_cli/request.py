"""What the runner tells a stage's process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tunebook_inference.served import Served
from tunebook_model.resolve import ReadyModel
from tunebook_run.stages import Stage


class Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: Stage
    parents: dict[str, str]
    """Store key of each parent stage."""
    model: ReadyModel
    """The base model, made ready."""
    supporting: dict[str, ReadyModel]
    """Supporting models that run on this machine, by role."""
    runs: dict[str, str] = {}
    """Store key of what each earlier run has made that answers as an arm, by the arm's name."""
    served: Served | None = None
    """What answers in the place of the tuned model."""
    spec_dir: Path
    """What paths of the spec are relative to."""
    ray_address: str | None
    facts: dict[str, Any]
    """What the report shows beside the evidence: the profile, the stages so far."""
