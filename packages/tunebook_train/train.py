"""Stage `train`: conversations to weights."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.train import TrainingFailedError

from tunebook_model.resolve import ReadyModel
from tunebook_model.shared_model import share_model
from tunebook_run.progress import Advance
from tunebook_run.stages import SCRATCH, Stage
from tunebook_run.store import Store
from tunebook_spec.errors import StageError
from tunebook_train.inputs import TrainInputs
from tunebook_train.job import Job, read_metrics
from tunebook_train.ray_train import fit
from tunebook_train.result import TrainResult, share

logger = logging.getLogger(__name__)

FOLLOW_S = 1.0


def train(
    inputs: TrainInputs,
    *,
    stage: Stage,
    store: Store,
    data_key: str,
    model: ReadyModel,
    ray_address: str | None,
    num_workers: int,
    min_workers: int,
    cpus_per_worker: int | None,
    advance: Advance,
) -> TrainResult:
    """Train on the rows under a store key; leaves `weights/` and `metrics.jsonl` under the stage's own.

    Args:
        inputs: what training reads of the spec.
        stage: this stage; its digest names the run, so that a killed one goes on.
        store: all that workers share.
        data_key: key of what `prepare` left.
        model: the base model on this machine.
        ray_address: the Ray cluster; None: this process trains, which is the one worker.
        num_workers: training workers.
        min_workers: as many go on where hosts are lost.
        cpus_per_worker: cores of each; none: this machine's, shared out.
        advance: told of steps.

    Raises:
        StageError: training failed for good.
    """
    job = Job(
        inputs=inputs,
        digest=stage.digest,
        storage_url=store.url if store.local_root is None else str(store.local_root),
        stage_key=stage.key,
        data_key=data_key,
        model_name=model.name,
        model_revision=model.revision,
        model=share_model(model.path, store),
        cpus_per_worker=cpus_per_worker or max(1, len(os.sched_getaffinity(0)) // num_workers),
    )
    with _followed(store, stage.key, num_workers, advance):
        try:
            fit(job, store, ray_address=ray_address, num_workers=num_workers, min_workers=min_workers)
        except TrainingFailedError as error:
            raise StageError(_cause(error)) from error
    store.download(stage.key, without=SCRATCH)
    return _result(read_metrics(store, stage.key))


@contextmanager
def _followed(store: Store, key: str, num_workers: int, advance: Advance) -> Iterator[None]:
    """Say how far training is, from the metrics that rank 0 writes, wherever it runs."""
    stop = threading.Event()

    def follow() -> None:
        announced, said = False, set[int]()
        is_over = False
        while not is_over:
            is_over = stop.wait(FOLLOW_S)
            try:
                entries = read_metrics(store, key)
            except OSError:  # a store that is overloaded now tells it later
                continue
            if entries and not announced:
                announced = True
                logger.info("train            computes in %s", entries[0]["precision"])
                counts = entries[0]["trainable_parameters"], entries[0]["parameters"]
                logger.info("train            trains %s", share(*counts))
            for entry in entries:
                resumed = entry.get("resumed_at_step")
                if resumed is not None and resumed not in said:
                    said.add(resumed)
                    for damage in entry.get("damaged", ()):
                        logger.warning("train            %s", damage)
                    among = entries[0]["num_workers"]
                    workers = "" if among == num_workers else f" with {among} of {num_workers} workers"
                    logger.info("train            goes on from step %d%s", resumed, workers)
            steps = [entry for entry in entries if "loss" in entry]
            if steps:
                last = steps[-1]
                accuracy = last.get("rewards/accuracies")
                note = f"accuracy={accuracy:.0%} " if accuracy is not None else ""
                note += (
                    f"loss={last['loss']:.3f} grad_norm={last['grad_norm']:.2f}"
                    f" tokens/s={last['tokens_per_s']:.0f} mfu={last['mfu']:.0%}"
                    f" memory={last['peak_memory_gib']:.1f}GiB"
                )
                advance(last["step"], entries[0]["num_steps"], note)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _result(entries: list[dict[str, Any]]) -> TrainResult:
    steps = [entry for entry in entries if "loss" in entry]
    validations = {entry["step"]: entry for entry in entries if "validation_loss" in entry}
    best = next((entry["step"] for entry in entries if entry.get("is_best")), None)
    trainable, total = entries[0]["trainable_parameters"], entries[0]["parameters"]
    tokens = [entry["tokens"] for entry in steps]
    times = [entry["tokens"] / entry["tokens_per_s"] for entry in steps]
    mfu = sum(entry["mfu"] * seconds for entry, seconds in zip(steps, times, strict=True)) / sum(times)
    kept = validations[steps[-1]["step"] if best is None else best]
    return TrainResult(
        trainable_parameters=trainable,
        parameters=total,
        trainable_share=trainable / total,
        steps=len(steps),
        tokens=sum(tokens),
        seconds=steps[-1]["seconds"],
        tokens_per_s=round(sum(tokens) / sum(times), 1),
        mfu=round(mfu, 4),
        peak_memory_gib=max(entry["peak_memory_gib"] for entry in steps),
        loss=steps[-1]["loss"],
        validation_loss_before=validations[0]["validation_loss"],
        validation_loss=kept["validation_loss"],
        validation_accuracy=kept.get("validation_rewards/accuracies"),
        best_step=best,
        num_workers=entries[0]["num_workers"],
        dtype=entries[0]["dtype"],
    )


def _cause(error: TrainingFailedError) -> str:
    """The first error of a worker, in one line, under what Ray wraps around it."""
    failures = getattr(error, "worker_failures", None)
    inner = next(iter(failures.values())) if failures else error
    return f"training failed: {str(inner).strip().splitlines()[-1]}"
