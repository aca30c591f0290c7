"""Runs a job's spec to its merged model, as the command line would; ends with the worker that started it.

Its log on stderr is JSON, which the worker reads; the worker's end of stdin tells that it lives.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from tunebook_cli import runner
from tunebook_cli.failure import StageFailed, StageKilled
from tunebook_run import log
from tunebook_run.parent import end_with_parent
from tunebook_run.settings import Settings
from tunebook_run.store import Store
from tunebook_spec import load
from tunebook_spec.errors import DataError, LockedError, TunebookError
from worker.outcome import BAD_INPUT, KILLED, LOCKED

logger = logging.getLogger("worker.job_process")

LAST_STAGE = "merge"
WAIT_S = 30.0
"""How long such a process may take to end."""


def main(spec: Path) -> int:
    end_with_parent()
    settings = Settings.read()
    log.configure("json", "INFO")
    try:
        loaded, store = load(spec), Store(settings.storage_url, settings.cache_dir)
        with store.lock(f"{loaded.spec.name}/job", wait_s=WAIT_S):
            runner.run(loaded, settings, made_for=LAST_STAGE)
    except KeyboardInterrupt:
        return 130
    except TunebookError as error:
        if not isinstance(error, (StageFailed, LockedError)):  # a stage has already said what went wrong
            logger.error("%s", error)
        return exit_status(error)
    return 0


def exit_status(error: TunebookError) -> int:
    """What the worker is told of an error, which is not the file's fault unless it is `BAD_INPUT`."""
    match error:
        case LockedError():
            return LOCKED
        case DataError() | StageFailed(stage="prepare", exit_status=2):
            return BAD_INPUT
        case StageKilled():
            return KILLED
        case StageFailed():
            return 1 if error.exit_status == BAD_INPUT else error.exit_status
    return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
