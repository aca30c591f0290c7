"""The loop on Ray Train: workers that share nothing but the storage URL."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from torch.nn.parallel import DistributedDataParallel

from tunebook_data.tokens import TokenTable
from tunebook_run.settings import Settings
from tunebook_run.store import Store
from tunebook_spec.errors import StageError
from tunebook_spec.models import AdapterMethod, QloraMethod
from tunebook_train.checkpoint import Training
from tunebook_train.inputs import TrainInputs
from tunebook_train.loop import Batches, Worker, run_steps
from tunebook_train.merge import ADAPTER, QUANTISED, WEIGHTS
from tunebook_train.optimizer import make_optimizer, make_schedule
from tunebook_train.pack import Pack, plan_steps
from tunebook_train.step import SupervisedLoss, check_loss, load_model

CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Job:
    """What a worker is told; everything else it reads from the store."""

    inputs: TrainInputs
    digest: str
    storage_url: str
    stage_key: str
    data_key: str
    model_name: str
    model_revision: str | None
    model_path: str | None
    """The base model, where every worker sees this machine's disk."""
    model_key: str | None
    """The base model in the store, where they do not."""
    dtype: str
    cpus_per_worker: int


def fit(job: Job, store: Store, *, ray_address: str, num_workers: int) -> None:
    """Train; a run of the same digest that was killed goes on from its newest checkpoint.

    Raises:
        StageError: the loss was no number any more.
        ray.train.TrainingFailedError: a worker failed more often than Ray Train starts it again.
    """
    ray.init(
        address=ray_address,
        log_to_driver=False,
        logging_level=logging.WARNING,
        ignore_reinit_error=True,
    )
    use_gpu = ray.cluster_resources().get("GPU", 0) >= num_workers
    trainer = TorchTrainer(
        work,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=num_workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": job.cpus_per_worker, **({"GPU": 1} if use_gpu else {})},
            placement_strategy="SPREAD",
        ),
        run_config=RunConfig(
            name=CHECKPOINTS,
            storage_path=store.path(job.stage_key),
            storage_filesystem=store.filesystem,
            failure_config=FailureConfig(max_failures=3),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    refusal = trainer.fit().return_value
    if refusal is not None:
        raise StageError(refusal)


def work(config: dict[str, Any]) -> str | None:
    """The whole life of one worker; returns why training cannot go on, which no restart would cure."""
    job: Job = config["job"]
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(job.cpus_per_worker)
    store = Store(job.storage_url, Settings.read().cache_dir)
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    worker = Worker(context.get_world_rank(), context.get_world_size(), device)
    model_dir = Path(job.model_path) if job.model_path else store.download(str(job.model_key))
    data_dir = store.download(job.data_key)
    method = job.inputs.method
    train = TokenTable.open(data_dir / "train.tokens.arrow")
    batches = Batches(
        train, TokenTable.open(data_dir / "validation.tokens.arrow"), worker, method.max_pack_tokens
    )
    steps = plan_steps(
        train.lengths,
        tokens_per_step=method.tokens_per_step,
        epochs=method.epochs,
        seed=job.inputs.seed,
    )
    torch.manual_seed(job.inputs.seed)
    try:
        loss = load_model(model_dir, getattr(torch, job.dtype), device, method)
    except StageError as error:
        return str(error)
    optimizer = make_optimizer(loss, method)
    schedule = make_schedule(optimizer, method, len(steps))
    training = Training(loss, optimizer, schedule, job.digest)
    if (checkpoint := ray.train.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            training.restore(Path(folder))
        training.metrics.append({"resumed_at_step": training.step})
    if worker.world_size > 1:
        training.model = DistributedDataParallel(loss)

    trainable, total = loss.parameter_counts()
    facts = {"num_steps": len(steps), "trainable_parameters": trainable, "parameters": total}

    def after_step() -> None:
        if worker.world_rank == 0:
            _publish(store, job, training, facts)
        if training.step % method.checkpoint_every_steps == 0 and training.step < len(steps):
            _report(training, loss, worker)

    try:
        check_loss(loss, Pack.of(train, [int(train.lengths.argmax())], device))
        run_steps(training, steps, batches, method, seed=job.inputs.seed, on_step=after_step)
    except StageError as error:
        return str(error)
    if worker.world_rank == 0:
        save_weights(loss, store, job)
    ray.train.report({"step": training.step})
    return None


def _publish(store: Store, job: Job, training: Training, facts: dict[str, int]) -> None:
    """Metrics so far, where the driver and people read them."""
    entries = [facts, *training.metrics]
    lines = "".join(json.dumps(entry) + "\n" for entry in entries)
    store.write(f"{job.stage_key}/{METRICS}", lines.encode())


def _report(training: Training, loss: SupervisedLoss, worker: Worker) -> None:
    """A checkpoint, taken by rank 0; a barrier for all."""
    metrics = {"step": training.step}
    if worker.world_rank != 0:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        plain = Training(
            loss, training.optimizer, training.schedule, training.digest, training.step, training.metrics
        )
        plain.save(Path(folder))
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def save_weights(loss: SupervisedLoss, store: Store, job: Job) -> None:
    """What was trained, into the stage's output: an adapter, or the master weights, tied ones once."""
    name = ADAPTER if isinstance(job.inputs.method, AdapterMethod) else WEIGHTS
    folder = store.folder(job.stage_key) / name
    if name == ADAPTER:
        from tunebook_train.adapter import save_adapter

        save_adapter(loss.model, folder, base_name=job.model_name, base_revision=job.model_revision)
        if isinstance(job.inputs.method, QloraMethod):
            from tunebook_train.quantise import Quantised

            Quantised.of(loss.model.get_base_model(), loss.compute_dtype).write(store.folder(job.stage_key))
            store.upload(job.stage_key, QUANTISED)
    else:
        loss.model.save_pretrained(folder)
    store.upload(job.stage_key, *(f"{name}/{path.name}" for path in folder.iterdir()))
