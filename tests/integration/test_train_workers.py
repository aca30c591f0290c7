"""Two gloo workers without Ray: the gradients of the global batch on both, and so the same weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from tunebook_data.tokens import TokenTable, write_tokens
from tunebook_model.render import Rendered
from tunebook_spec.models import AnyMethod, FullMethod, LoraMethod, QloraMethod
from tunebook_train.checkpoint import Training
from tunebook_train.loop import Batches, Worker, accumulate, run_steps, validate
from tunebook_train.optimizer import make_optimizer, make_schedule
from tunebook_train.pack import plan_steps, supervised_weight
from tunebook_train.step import SupervisedLoss, load_model

CPU = torch.device("cpu")
LENGTHS = [17, 25, 40, 8, 12, 33, 21]
STEPS = {"shared out": tuple(range(7)), "one row": (3,)}
COMMON = {"epochs": 2, "learning_rate": 1e-2, "tokens_per_step": 80, "max_pack_tokens": 48}
METHODS: dict[str, AnyMethod] = {
    "full": FullMethod(kind="full", **COMMON),
    "lora": LoraMethod(kind="lora", r=4, **COMMON),
    "qlora": QloraMethod(kind="qlora", r=4, **COMMON),
}


def weights(model: SupervisedLoss) -> dict[str, torch.Tensor]:
    return {key: p.detach().clone() for key, p in model.named_parameters() if p.requires_grad}


def train(model_dir: Path, table_path: Path, out: Path, world_rank: int, world_size: int) -> None:
    """For every method the gradients of each step, the validation loss, and the weights after a training."""
    table = TokenTable.open(table_path)
    batches = Batches(table, table, Worker(world_rank, world_size, CPU), max_pack_tokens=48)
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
        found[f"{kind}, validation"] = {"loss": torch.tensor(validate(model, batches))}
        optimizer = make_optimizer(loss, method)
        model.zero_grad()
        steps = plan_steps(table.lengths, tokens_per_step=80, epochs=2, seed=0)
        training = Training(model, optimizer, make_schedule(optimizer, method, len(steps)), "0123")
        run_steps(training, steps, batches, method, seed=0, on_step=lambda: None)
        found[f"{kind}, trained"] = weights(loss)
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
    assert all("lora_" in key for kind in ("lora", "qlora") for key in alone[f"{kind}, shared out"])
