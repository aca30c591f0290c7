"""How a job ends when its process has."""

from __future__ import annotations

import csv
import io
import signal
import time
from typing import Any

from tunebook_jobs.ids import model_name, new_id, scenario_of
from tunebook_jobs.queue import JobQueue, Made
from tunebook_jobs.stored_files import content_key
from tunebook_jobs.tables import File, Job
from tunebook_run.record import find_run
from tunebook_run.stages import read_artifact
from tunebook_run.store import Store
from tunebook_train.job import read_metrics
from worker.following import merged_steps

BAD_INPUT = 2
"""The exit status of a run whose data cannot be used."""
LOCKED = 75
"""Where another process runs the job, whose worker has lost it and will end it; EX_TEMPFAIL."""
KILLED = 128 + signal.SIGKILL
"""Where a signal ended a stage: what a shell tells of one."""
COLUMNS = ("step", "train_loss", "valid_loss")


def conclude(queue: JobQueue, store: Store, job: Job, exit_status: int, error: str | None) -> None:
    """Write how a job ended, unless another worker has it by now."""
    if exit_status != 0:
        told = error or f"The job's process ended with status {exit_status}."
        queue.fail(job.id, failure(exit_status, told))
        return
    run = find_run(store, scenario_of(job.id))
    key = run.stage("train").key
    trained = read_artifact(store, key)
    assert trained is not None
    steps = merged_steps(read_metrics(store, key))
    tokens = trained.result["tokens"]
    assert isinstance(tokens, int)
    made = Made(
        model=model_name(job.model, job.project, job.suffix, job.id),
        run=f"{run.scenario}@{run.number}",
        trained_tokens=tokens,
        result_file=_result_file(store, job, steps),
        step=steps[-1]["step"],
        metrics={name: value for name, value in steps[-1].items() if name != "total_steps"},
    )
    queue.succeed(job.id, made)


def failure(exit_status: int, told: str) -> dict[str, str | None]:
    """A job's error, as the protocol has it."""
    if exit_status == BAD_INPUT:
        message = f"The job failed due to an invalid training file. {told}"
        return {"code": "invalid_training_file", "message": message, "param": "training_file"}
    return {"code": "server_error", "message": told, "param": None}


def _result_file(store: Store, job: Job, steps: list[dict[str, Any]]) -> File:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(steps)
    content = text.getvalue().encode()
    file = File(
        id=new_id("file-"),
        project=job.project,
        filename="step_metrics.csv",
        purpose="fine-tune-results",
        num_bytes=len(content),
        created_at=int(time.time()),
    )
    store.write(content_key(file.id), content)
    return file
