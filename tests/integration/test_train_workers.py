"""Two gloo workers without Ray: the gradients of the global batch, on both."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from tunebook_data.tokens import TokenTable, write_tokens
from tunebook_model.render import Rendered
from tunebook_train.loop import Batches, Worker, accumulate, validate
from tunebook_train.pack import supervised_weight
from tunebook_train.step import load_model

CPU = torch.device("cpu")
LENGTHS = [17, 25, 40, 8, 12, 33, 21]
STEPS = {"shared out": tuple(range(7)), "one row": (3,)}


def gradients(model_dir: Path, table_path: Path, out: Path, world_rank: int, world_size: int) -> None:
    table = TokenTable.open(table_path)
    loss_model = load_model(model_dir, torch.float32, CPU)
    model = DistributedDataParallel(loss_model) if world_size > 1 else loss_model
    batches = Batches(table, table, Worker(world_rank, world_size, CPU), max_pack_tokens=48)
    found = {}
    for name, rows in STEPS.items():
        model.zero_grad()
        accumulate(model, batches.packs(table, rows), world_size / supervised_weight(table, rows))
        found[name] = {key: p.grad.clone() for key, p in loss_model.named_parameters() if p.grad is not None}
    torch.save((found, validate(model, batches)), out / f"{world_rank}-of-{world_size}.pt")


def worker(world_rank: int, model_dir: Path, table_path: Path, out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}/rendezvous", rank=world_rank, world_size=2)
    gradients(model_dir, table_path, out, world_rank, 2)
    dist.destroy_process_group()


def test_two_workers_both_have_the_gradients_that_one_has(tiny_llama: Path, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    table_path = tmp_path / "train.tokens.arrow"
    ids = [torch.randint(5, 250, (length,), generator=generator).tolist() for length in LENGTHS]
    write_tokens(
        table_path,
        [(f"row-{i}", Rendered(each, [n > i for n in range(len(each))])) for i, each in enumerate(ids)],
    )
    gradients(tiny_llama, table_path, tmp_path, 0, 1)
    # Forked from a process that has imported this file: importing it thrice takes longer than all else here.
    mp.get_context("forkserver").set_forkserver_preload([__name__])
    mp.start_processes(worker, (tiny_llama, table_path, tmp_path), nprocs=2, start_method="forkserver")
    names = ("0-of-1.pt", "0-of-2.pt", "1-of-2.pt")
    (alone, loss), (first, first_loss), (second, second_loss) = (
        torch.load(tmp_path / name) for name in names
    )
    for step in STEPS:
        assert alone[step].keys() == first[step].keys() == second[step].keys()
        for key, gradient in alone[step].items():
            assert torch.equal(first[step][key], second[step][key])
            torch.testing.assert_close(first[step][key], gradient, rtol=1e-4, atol=1e-7)
    assert first_loss == second_loss == pytest.approx(loss, rel=1e-6)
