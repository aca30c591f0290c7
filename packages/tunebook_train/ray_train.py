"""The loop on Ray Train: workers that share nothing but the storage URL.

Ray Train's controller imports this module too, so what only workers need is imported by them alone.
"""

from __future__ import annotations

from typing import Any

import ray
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from tunebook_run.importing import no_collection
from tunebook_run.ray_cluster import connect
from tunebook_run.store import Store
from tunebook_spec.errors import StageError
from tunebook_train.job import RAY_TRAIN, Job


def fit(job: Job, store: Store, *, ray_address: str | None, num_workers: int, min_workers: int) -> None:
    """Train; a run of the same digest that was killed goes on from its newest checkpoint.

    Args:
        job: what workers are told.
        store: all that they share.
        ray_address: the cluster; None: this process is the one worker, Ray Train's local mode.
        num_workers: on the cluster.
        min_workers: as many go on where hosts are lost.

    Raises:
        StageError: there is no such cluster, it has GPUs but too few, or the loss was no number any more.
        ray.train.TrainingFailedError: a worker failed more often than Ray Train starts it again.
    """
    if ray_address is None:
        scaling = ScalingConfig(num_workers=0)
    else:
        connect(ray_address, "train on this machine alone")
        num_gpus = int(ray.cluster_resources().get("GPU", 0))
        if 0 < num_gpus < min_workers:
            raise StageError(
                f"the cluster at {ray_address} has {num_gpus} GPUs for {min_workers} workers: wait until all"
                " of its hosts have joined and run again, or set TUNEBOOK_NUM_WORKERS or TUNEBOOK_MIN_WORKERS"
                f" to {num_gpus}"
            )
        use_gpu = num_gpus > 0
        scaling = ScalingConfig(
            num_workers=num_workers if min_workers == num_workers else (min_workers, num_workers),
            use_gpu=use_gpu,
            resources_per_worker={"CPU": job.cpus_per_worker, **({"GPU": 1} if use_gpu else {})},
            placement_strategy="SPREAD",
        )
    trainer = TorchTrainer(
        _work,
        train_loop_config={"job": job},
        scaling_config=scaling,
        run_config=RunConfig(
            name=RAY_TRAIN,
            storage_path=store.path(job.stage_key),
            storage_filesystem=store.filesystem,
            failure_config=FailureConfig(max_failures=3),
        ),
    )
    refusal = trainer.fit().return_value
    if refusal is not None:
        raise StageError(refusal)


def _work(config: dict[str, Any]) -> str | None:
    with no_collection():
        from tunebook_train.worker import work

    return work(config["job"])
