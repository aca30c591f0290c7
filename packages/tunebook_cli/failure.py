"""How the runner learns that a stage's process failed."""

from __future__ import annotations

from tunebook_spec.errors import StageError, TunebookError


class StageFailed(TunebookError):
    """A stage's process ended without its artifact, and has said why on stderr."""

    def __init__(self, stage: str, exit_status: int) -> None:
        super().__init__(stage, exit_status)
        self.stage = stage
        self.exit_status = exit_status


class StageKilled(StageError):
    """A signal from outside ended a stage's process: most often the machine is out of memory."""
