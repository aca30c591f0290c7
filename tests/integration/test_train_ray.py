"""Training on a real Ray of this machine, with workers that die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
import torch
from safetensors.torch import load_file

from tunebook_data.tokens import write_tokens
from tunebook_model.render import Rendered
from tunebook_model.resolve import ReadyModel
from tunebook_run.stages import Stage
from tunebook_run.store import Store
from tunebook_spec.errors import StageError
from tunebook_spec.method import EarlyStopping, FullMethod, ParallelStrategy
from tunebook_train.inputs import TrainInputs
from tunebook_train.job import WEIGHTS
from tunebook_train.train import TrainResult, train

# Ray's own: it leaves sockets and a forked process behind when it stops.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning:ray")

METHOD = FullMethod(
    kind="full",
    epochs=8,
    learning_rate=3e-3,
    tokens_per_step=256,
    max_pack_tokens=64,
    checkpoint_every_steps=5,
    early_stopping=EarlyStopping(eval_steps=3, patience=8),
)


@pytest.fixture(scope="module")
def ray_address() -> Iterator[str]:
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")
        context = ray.init(
            address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False
        )
        yield context.address_info["gcs_address"]
        ray.shutdown()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store that holds what prepare leaves."""
    folder = tmp_path_factory.mktemp("store")
    store = Store(str(folder / "runs"), folder / "cache")
    generator = torch.Generator().manual_seed(0)
    for name, count in (("train", 32), ("validation", 6)):
        rows = []
        for number in range(count):
            ids = torch.randint(5, 250, (20 + number,), generator=generator).tolist()
            rows.append((f"{name}-{number}", Rendered(np.array(ids), np.arange(len(ids)) >= 10)))
        folder = store.folder("data")
        folder.mkdir(parents=True, exist_ok=True)
        write_tokens(folder / f"{name}.tokens.arrow", rows)
    return store


def run(
    name: str, store: Store, model: Path, address: str | None, *, workers: int, method: FullMethod = METHOD
) -> tuple[TrainResult, Path]:
    inputs = TrainInputs(method=method, seed=0)
    stage = Stage.of("tiny", name, inputs)
    result = train(
        inputs,
        stage=stage,
        store=store,
        data_key="data",
        model=ReadyModel(model, "tiny", "0123", None),
        ray_address=address,
        num_workers=workers,
        min_workers=workers,
        cpus_per_worker=1,
        advance=lambda done, total, note="": None,
    )
    return result, store.folder(stage.key)


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in metrics(folder) if "loss" in entry]


@pytest.fixture(scope="module")
def undisturbed(ray_address: str, store: Store, tiny_llama: Path) -> tuple[TrainResult, Path]:
    """Two workers that nobody kills."""
    return run("train-two", store, tiny_llama, ray_address, workers=2)


def kill_a_worker_at(step: int, folder: Path) -> None:
    """SIGKILL for one training worker among this process's children once a step is in the metrics."""

    def wait_for(count: int) -> None:
        while not (folder / "metrics.jsonl").exists() or len(losses(folder)) < count:
            time.sleep(0.02)

    wait_for(1)
    children = psutil.Process().children(recursive=True)
    workers = [each for each in children if "RayTrainWorker" in " ".join(each.cmdline())]
    assert len(workers) == 2
    wait_for(step)
    workers[0].send_signal(signal.SIGKILL)


# What is undisturbed is not sharded; FSDP adds gradients up in another order, and bfloat16 shows it.
@pytest.mark.parametrize(
    ("strategy", "tolerance"), [("ddp", 0.0), pytest.param("fsdp", 5e-4, marks=pytest.mark.soak)]
)
def test_a_killed_worker_costs_nothing_but_time(
    ray_address: str,
    store: Store,
    tiny_llama: Path,
    undisturbed: tuple[TrainResult, Path],
    strategy: ParallelStrategy,
    tolerance: float,
) -> None:
    result, folder = undisturbed
    method = METHOD.model_copy(update={"parallel_strategy": strategy})
    victim = store.folder(Stage.of("tiny", "train-killed", TrainInputs(method=method, seed=0)).key)
    killer = threading.Thread(target=kill_a_worker_at, args=(19, victim))
    killer.start()
    killed, victim = run("train-killed", store, tiny_llama, ray_address, workers=2, method=method)
    killer.join()
    (entry,) = [entry for entry in metrics(victim) if "resumed_at_step" in entry]
    assert entry["resumed_at_step"] in (15, 20)
    assert losses(victim) == pytest.approx(losses(folder), rel=tolerance, abs=0)
    assert killed.steps == result.steps == len(losses(victim))
    assert killed.best_step == result.best_step
    assert killed.best_step is not None
    assert killed.steps < 40, "it stopped early"
    weights, again = (load_file(each / WEIGHTS / "model.safetensors") for each in (folder, victim))
    assert again.keys() == weights.keys()
    for name, tensor in weights.items():
        assert (again[name] - tensor).norm() <= 10 * tolerance * tensor.norm()
    assert (victim / "checkpoints").exists(), "until the stage is done"


TOO_FEW_GPUS = """
import ray
from tunebook_spec.errors import StageError
from tunebook_train.ray_train import fit
context = ray.init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False)
try:
    fit(None, None, ray_address=context.address_info["gcs_address"], num_workers=3, min_workers=2)
except StageError as error:
    print(error)
"""
"""A cluster that says it has a GPU, asked before any worker begins."""


def test_a_cluster_with_fewer_gpus_than_workers_does_not_train_on_cpus_in_silence() -> None:
    done = subprocess.run([sys.executable, "-c", TOO_FEW_GPUS], capture_output=True, text=True, timeout=120)
    assert "has 1 GPUs for 2 workers: wait until all of its hosts have joined and run again" in done.stdout, (
        done.stderr
    )


def test_a_rate_that_breaks_the_loss_fails_once_with_step_and_rows(store: Store, tiny_llama: Path) -> None:
    method = METHOD.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(StageError, match=r"step \d+: loss .* norm nan, in rows train-\d+, .*lower method"):
        run("train-breaks", store, tiny_llama, None, workers=1, method=method)
