"""The whole life of one training worker on Ray Train."""

from __future__ import annotations

import json
import os

import ray.train
import ray.train.torch
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from tunebook_data.tokens import TokenTable
from tunebook_model.precision import common, compute_dtype
from tunebook_run.settings import Settings
from tunebook_run.store import Store
from tunebook_spec.errors import StageError
from tunebook_spec.method import AdapterMethod, QloraMethod
from tunebook_train.allocator import TRIM_STEPS, give_back, keep_freed_memory
from tunebook_train.checkpoint import Training
from tunebook_train.checkpoints import Checkpoints
from tunebook_train.job import ADAPTER, METRICS, QUANTISED, WEIGHTS, Job
from tunebook_train.limits import way_out
from tunebook_train.loop import Batches, Worker, run_steps
from tunebook_train.merge_probes import MERGE_PROBES, probe
from tunebook_train.optimizer import make_optimizer, make_schedule
from tunebook_train.pack import Pack, plan_steps
from tunebook_train.sharding import shard
from tunebook_train.step import SupervisedLoss, check_loss, load_model
from tunebook_train.throughput import Meter, StepCost, gemm_rate


def work(job: Job) -> str | None:
    """Train to the end; returns why training cannot go on, which no restart would cure.

    Raises:
        StageError: memory or disk do not suffice for one of several workers; the others wait for it until
            Ray Train ends them all.
    """
    try:
        return _work(job)
    except Exception as error:
        refusal = way_out(error, job.inputs.method, job.storage_url)
        if refusal is None:
            raise
        if ray.train.get_context().get_world_size() > 1:
            raise StageError(refusal) from error
        return refusal


def _work(job: Job) -> str | None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(job.cpus_per_worker)
    store = Store(job.storage_url, Settings.read().cache_dir)
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        keep_freed_memory()
    worker = Worker(context.get_world_rank(), context.get_world_size(), device)
    precision = common(worker.gather([compute_dtype()]))
    model_dir = job.model.on_this_host(store)
    data_dir = store.download(job.data_key)
    method = job.inputs.method
    train = TokenTable.open(data_dir / "train.tokens.arrow")
    batches = Batches(
        train,
        TokenTable.open(data_dir / "validation.tokens.arrow"),
        worker,
        method.max_pack_tokens,
        method.objective,
    )
    steps = plan_steps(
        train.lengths,
        tokens_per_step=method.tokens_per_step,
        epochs=method.epochs,
        seed=job.inputs.seed,
        together=batches.together,
        rows_per_step=method.rows_per_step,
    )
    is_sharded = worker.world_size > 1 and method.parallel_strategy == "fsdp"
    torch.manual_seed(job.inputs.seed)
    try:
        loaded_on = torch.device("cpu") if is_sharded else device
        loss = load_model(model_dir, getattr(torch, precision.dtype), loaded_on, method)
    except StageError as error:
        return str(error)
    cost = StepCost.of(loss)
    if is_sharded:
        shard(loss, device)
    optimizer = make_optimizer(loss, method)
    schedule = make_schedule(optimizer, method, len(steps))
    training = Training(loss, optimizer, schedule, job.digest)
    checkpoints = Checkpoints(store, job.stage_key)
    try:
        training.restore_newest(checkpoints.newest_first())
    except StageError as error:
        return str(error)
    if worker.world_size > 1 and not is_sharded:
        training.model = DistributedDataParallel(loss)

    rate = worker.total(torch.tensor(gemm_rate(loss.compute_dtype, device), device=device))
    meter = Meter(cost, rate, device)
    trainable, total = loss.parameter_counts()
    facts: dict[str, int | str] = {
        "num_workers": worker.world_size,
        "dtype": precision.dtype,
        "precision": precision.reason,
        "num_steps": len(steps),
        "trainable_parameters": trainable,
        "parameters": total,
        "gemm_flops_per_s": round(rate),
    }

    def after_step() -> None:
        if device.type == "cpu" and training.step % TRIM_STEPS == 0:
            give_back()
        if worker.world_rank == 0:
            _publish(store, job, training, facts)
        if training.step % method.checkpoint_every_steps == 0 and training.step < len(steps):
            checkpoints.save(training)

    try:
        check_loss(loss, Pack.of(train, [int(train.lengths.argmax())], device))
        run_steps(training, steps, batches, method, seed=job.inputs.seed, meter=meter, on_step=after_step)
    except StageError as error:
        return str(error)
    probes, kept = probe(loss, train, device), training.kept()
    if worker.world_rank == 0:
        _publish(store, job, training, facts)
        save_weights(loss, kept, store, job)
        probes.write(store.folder(job.stage_key))
        store.upload(job.stage_key, MERGE_PROBES)
    return None


def _publish(store: Store, job: Job, training: Training, facts: dict[str, int | str]) -> None:
    """Metrics so far, where the driver and people read them."""
    entries = [facts, *training.metrics]
    lines = "".join(json.dumps(entry) + "\n" for entry in entries)
    store.write(f"{job.stage_key}/{METRICS}", lines.encode())


def save_weights(loss: SupervisedLoss, kept: dict[str, Tensor], store: Store, job: Job) -> None:
    """What was trained, into the stage's output: an adapter, or the master weights, tied ones once.

    Args:
        loss: what was trained.
        kept: the weights that are kept of it, whole, by the names of its parameters.
        store: of the job.
        job: names the stage.
    """
    name = ADAPTER if isinstance(job.inputs.method, AdapterMethod) else WEIGHTS
    folder = store.folder(job.stage_key) / name
    state = loss.state_with(kept)
    if name == ADAPTER:
        from tunebook_train.adapter import save_adapter

        save_adapter(loss.model, state, folder, base_name=job.model_name, base_revision=job.model_revision)
        if isinstance(job.inputs.method, QloraMethod):
            from tunebook_train.quantise import Quantised

            Quantised.of(loss.model.get_base_model(), loss.compute_dtype).write(store.folder(job.stage_key))
            store.upload(job.stage_key, QUANTISED)
    else:
        loss.model.save_pretrained(folder, state_dict=state)
    store.upload(job.stage_key, *(f"{name}/{path.name}" for path in folder.iterdir()))
