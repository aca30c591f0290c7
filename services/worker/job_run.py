"""The process that runs one job's spec."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from tunebook_jobs.job_spec import TRAINING, VALIDATION, job_spec
from tunebook_jobs.stored_files import CONTENT, file_folder
from tunebook_jobs.tables import Job
from tunebook_run.settings import Settings
from tunebook_run.store import Store
from tunebook_spec.errors import DataError

logger = logging.getLogger(__name__)

SPEC = "spec.yaml"
STOP_S = 3.0
"""How long a process may take to end when it is asked to."""


@contextmanager
def job_folder(job: Job, settings: Settings) -> Iterator[Path]:
    """A folder of this worker alone: one that has lost the job may still be at work beside it."""
    place = settings.cache_dir.resolve() / "jobs" / job.id
    shutil.rmtree(
        place, ignore_errors=True
    )  # of a worker that was killed, or is not to have the job any more
    place.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=place))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # another's is there
            place.rmdir()


def prepare_job(job: Job, settings: Settings, store: Store, folder: Path) -> None:
    """Write a job's spec, and its files beside it.

    Raises:
        DataError: a file was deleted.
    """
    for file, name in ((job.training_file, TRAINING), (job.validation_file, VALIDATION)):
        if file is None:
            continue
        content = store.download(file_folder(file)) / CONTENT
        if not content.exists():
            raise DataError(f"File {file} was deleted before the job could read it.")
        shutil.copyfile(content, folder / name)
    # JSON is YAML.
    (folder / SPEC).write_text(json.dumps(job_spec(job, settings.gateway, store), indent=1))


class JobRun:
    """Runs while `with` lasts; nothing of it is left after that."""

    def __init__(self, folder: Path) -> None:
        self.error: str | None = None
        """The last error that it told."""
        command = [sys.executable, "-m", "worker.job_process", str(folder / SPEC)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stderr is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stderr,), daemon=True)
        self._reader.start()

    def __enter__(self) -> JobRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def wait(self, seconds: float) -> int | None:
        """The exit status, negative where a signal ended it; None if it still runs after so many seconds."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            try:
                entry = json.loads(line)
                level, message = entry["level"], entry["message"]
            except (ValueError, KeyError, TypeError):
                logger.info("%s", line.rstrip())
                continue
            if level == "ERROR":
                self.error = message
            logger.log(logging.getLevelNamesMapping()[level], "%s", message)
            if "traceback" in entry:
                logger.error("%s", entry["traceback"])
