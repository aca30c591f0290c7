"""Two gloo workers without Ray: the gradients of the global batch on both, and so the same weights."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from tests.unit.train.tables import CPU, EDGES, LIMIT
from tunebook_data.tokens import TokenTable, write_tokens
from tunebook_model.render import Rendered
from tunebook_spec.method import AnyMethod, EarlyStopping, FullMethod, LoraMethod, QloraMethod
from tunebook_train.checkpoint import Training
from tunebook_train.loop import Batches, Worker, accumulate, run_steps, validate
from tunebook_train.optimizer import make_optimizer, make_schedule
from tunebook_train.pack import plan_steps, supervised_weight
from tunebook_train.step import SupervisedLoss, load_model

LENGTHS = [17, 25, 40, 8, 12, 33, 21]
STEPS = {"shared out": tuple(range(7)), "one row": (3,)}
BATCHES = {"8 x 1": 2 * LIMIT, "1 x 8": 1}
"""Rows of a pack by packs of a step, for one worker, and the longest pack that makes it so."""
COMMON = {"epochs": 2, "learning_rate": 1e-2, "tokens_per_step": 80, "max_pack_tokens": 48}
METHODS: dict[str, AnyMethod] = {
    "full": FullMethod(kind="full", **COMMON),
    # So high a rate that the loss rises.
    "stopped": FullMethod(
        kind="full",
        **{**COMMON, "learning_rate": 1.0},
        early_stopping=EarlyStopping(eval_steps=1, patience=1),
    ),
    "lora": LoraMethod(kind="lora", r=4, **COMMON),
    "qlora": QloraMethod(kind="qlora", r=4, **COMMON),
}


def weights(model: SupervisedLoss) -> dict[str, torch.Tensor]:
    return {key: p.detach().clone() for key, p in model.named_parameters() if p.requires_grad}


def watched(seen: dict[int, dict[str, torch.Tensor]], training: Training, model: SupervisedLoss) -> None:
    seen[training.step] = weights(model)


def train(model_dir: Path, table_path: Path, out: Path, world_rank: int, world_size: int) -> None:
    """For every method the gradients of each step, the validation loss, and the weights after a training."""
    table = TokenTable.open(table_path)
    batches = Batches(table, table, Worker(world_rank, world_size, CPU), max_pack_tokens=48)
    edges = TokenTable.open(table_path.with_name("edges.tokens.arrow"))
    found = {}
    for kind, method in METHODS.items():
        torch.manual_seed(0)
        loss = load_model(model_dir, torch.float32, CPU, method)
        with torch.no_grad():
            for parameter in loss.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn(parameter.shape))
        model = DistributedDataParallel(loss) if world_size > 1 else loss
        for name, rows in STEPS.items():
            model.zero_grad()
            accumulate(model, batches.packs(table, rows), world_size / supervised_weight(table, rows))
            grads = {key: p.grad.clone() for key, p in loss.named_parameters() if p.grad is not None}
            found[f"{kind}, {name}"] = grads
        for name, size in BATCHES.items():
            model.zero_grad()
            packs = Batches(edges, edges, batches.worker, size).packs(edges, range(8))
            assert len(packs) == (1 if name == "8 x 1" else 8 // world_size)
            losses = accumulate(model, packs, world_size / supervised_weight(edges, range(8)))
            grads = {key: p.grad.clone() for key, p in loss.named_parameters() if p.grad is not None}
            found[f"{kind}, {name}"] = {**grads, "loss": torch.tensor(batches.worker.total(losses.sum()))}
        found[f"{kind}, validation"] = {"loss": torch.tensor(validate(model, batches))}
        optimizer = make_optimizer(loss, method)
        model.zero_grad()
        steps = plan_steps(table.lengths, tokens_per_step=80, epochs=2, seed=0)
        training = Training(model, optimizer, make_schedule(optimizer, method, len(steps)), "0123")
        seen: dict[int, dict[str, torch.Tensor]] = {}
        watch = partial(watched, seen, training, loss)
        run_steps(training, steps, batches, method, seed=0, on_step=watch)
        if method.early_stopping is None:
            found[f"{kind}, trained"] = weights(loss)
            continue
        last, best = training.step, training.metrics[-1]["step"]
        assert best < last < len(steps)
        found[f"{kind}, ends"] = {"last": torch.tensor(last), "best": torch.tensor(best)}
        if world_rank == 0:
            assert all(torch.equal(seen[best][key], each) for key, each in weights(loss).items())
    torch.save(found, out / f"{world_rank}-of-{world_size}.pt")


def worker(world_rank: int, model_dir: Path, table_path: Path, out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}/rendezvous", rank=world_rank, world_size=2)
    train(model_dir, table_path, out, world_rank, 2)
    dist.destroy_process_group()


def test_two_workers_both_have_the_gradients_and_the_weights_that_one_has(
    tiny_llama: Path, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    table_path = tmp_path / "train.tokens.arrow"
    ids = [torch.randint(5, 250, (length,), generator=generator).tolist() for length in LENGTHS]
    write_tokens(
        table_path,
        [(f"row-{i}", Rendered(np.array(each), np.arange(len(each)) > i)) for i, each in enumerate(ids)],
    )
    rows = []
    for name, (length, start) in EDGES.items():
        row = torch.randint(5, 250, (length,), generator=generator).numpy()
        rows.append((name, Rendered(row, np.arange(length) >= start)))
    write_tokens(tmp_path / "edges.tokens.arrow", rows)
    train(tiny_llama, table_path, tmp_path, 0, 1)
    # Forked from a process that has imported this file: importing it thrice takes longer than all else here.
    mp.get_context("forkserver").set_forkserver_preload([__name__])
    mp.start_processes(worker, (tiny_llama, table_path, tmp_path), nprocs=2, start_method="forkserver")
    names = ("0-of-1.pt", "0-of-2.pt", "1-of-2.pt")
    alone, first, second = (torch.load(tmp_path / name) for name in names)
    assert alone.keys() == first.keys() == second.keys()
    for what, tensors in alone.items():
        assert tensors.keys() == first[what].keys() == second[what].keys()
        # Adam divides by what is near zero, and so trained weights part more.
        rtol, atol = (1e-2, 1e-4) if "trained" in what else (1e-4, 1e-7)
        for key, tensor in tensors.items():
            assert torch.equal(first[what][key], second[what][key])
            torch.testing.assert_close(first[what][key], tensor, rtol=rtol, atol=atol)
    for kind in METHODS:
        at_once, *others = (found[f"{kind}, {name}"] for found in (alone, first) for name in BATCHES)
        assert all(tensor.isfinite().all() for tensor in at_once.values())
        for each in others:
            torch.testing.assert_close(each, at_once, rtol=1e-4, atol=1e-6)
    assert all("lora_" in key for kind in ("lora", "qlora") for key in alone[f"{kind}, shared out"])
