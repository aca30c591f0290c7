"""Two gloo workers without Ray, each with all of the model or half of it, make what one worker makes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file
from torch.nn.parallel import DistributedDataParallel

from tests.unit.train.tables import CPU, EDGES, LIMIT, assert_near, write_pairs
from tunebook_data.tokens import TokenTable, write_tokens
from tunebook_model.render import Rendered
from tunebook_spec.method import (
    AdapterMethod,
    AnyMethod,
    DpoObjective,
    EarlyStopping,
    FullMethod,
    LoraMethod,
    QloraMethod,
)
from tunebook_train.adapter import save_adapter
from tunebook_train.checkpoint import Training
from tunebook_train.loop import Batches, Worker, accumulate, reference_log_probabilities, run_steps
from tunebook_train.merge_probes import probe
from tunebook_train.optimizer import make_optimizer, make_schedule
from tunebook_train.pack import Pack, pack_rows, plan_steps
from tunebook_train.sharding import shard, whole
from tunebook_train.step import check_loss, load_model

LENGTHS = [17, 25, 40, 8, 12, 33, 21]
ROWS = {"shared out": tuple(range(7)), "one row": (3,)}
SHAPES = [(9, 8, 12), (4, 20, 3), (2, 1, 1), (15, 6, 10), (7, 5, 5)]
PAIRS = {"shared out": tuple(range(10)), "one pair": (4, 5)}
"""Tokens of prompt and answers of each pair, and rows of the table in which a pair is two."""
BATCHES = {"8 x 1": 2 * LIMIT, "1 x 8": 1}
"""Rows of a pack by packs of a step, for one worker, and the longest pack that makes it so."""
COMMON = {"epochs": 3, "learning_rate": 1e-3, "tokens_per_step": 80, "max_pack_tokens": 24}
DPO = DpoObjective(kind="dpo")
METHODS: dict[str, AnyMethod] = {
    "full": FullMethod(kind="full", **COMMON),
    # So high a rate that the loss rises; it makes what rounding did larger too, a thousandfold.
    "stopped": FullMethod(
        kind="full",
        **{**COMMON, "learning_rate": 0.3},
        early_stopping=EarlyStopping(eval_steps=1, patience=2, threshold=9),
    ),
    # It rounds what differs by little to moments that differ by more.
    "8bit": FullMethod(kind="full", optim="adamw_8bit", **COMMON),
    "lora": LoraMethod(kind="lora", r=4, modules_to_save=("embed_tokens", "norm"), use_dora=True, **COMMON),
    "qlora": QloraMethod(kind="qlora", r=4, **COMMON),
    "full dpo": FullMethod(kind="full", objective=DPO, **COMMON),
    "lora dpo": LoraMethod(kind="lora", r=4, objective=DPO, **COMMON),
    "qlora dpo": QloraMethod(kind="qlora", r=4, objective=DPO, **COMMON),
}
WHOLE = ("8bit", "qlora", "qlora dpo")
"""Those that FSDP does not shard."""
SAVED_AT = 2
Found = dict[str, dict[str, torch.Tensor]]


class Run:
    """Of one worker: the model under a method, and a table to train and validate on."""

    def __init__(
        self, model_dir: Path, table: TokenTable, method: AnyMethod, worker: Worker, strategy: str
    ) -> None:
        self.method = method
        self.batches = Batches(table, table, worker, method.max_pack_tokens, method.objective)
        torch.manual_seed(0)
        self.loss = loss = load_model(model_dir, torch.float32, CPU, method)
        with torch.no_grad():
            for parameter in loss.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn(parameter.shape))
        if strategy == "fsdp":
            shard(loss, CPU)
        optimizer = make_optimizer(loss, method)
        self.steps = plan_steps(
            table.lengths,
            tokens_per_step=80,
            epochs=method.epochs,
            seed=0,
            together=self.batches.together,
        )
        self.training = Training(loss, optimizer, make_schedule(optimizer, method, len(self.steps)), "0123")
        if strategy == "ddp":
            self.training.model = DistributedDataParallel(loss)
        check_loss(loss, Pack.of(table, [2], CPU))

    def gradients(self, batches: Batches, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Of a step of these rows, and its loss."""
        model, worker, table = self.training.model, batches.worker, batches.train
        scale, reference = worker.world_size / batches.weight(table, rows), None
        if isinstance(batches.objective, DpoObjective):
            # Of another model than the one at hand, so that margins are not all zero.
            reference = reference_log_probabilities(model, batches, table)
            reference += torch.linspace(-9, 9, len(table))
        sums = accumulate(model, batches.packs(table, rows, reference), scale, batches)
        grads = {n: whole(p.grad).clone() for n, p in self.loss.named_parameters() if p.grad is not None}
        model.zero_grad()
        return {**grads, "sums": worker.totals(sums.sum(0))}

    def train(self, save: Path | None = None) -> Found:
        """The weights after every step, those that are kept, and the metrics; `save` leaves a checkpoint."""
        found: Found = {}

        def on_step() -> None:
            trained = {n: p for n, p in self.loss.named_parameters() if p.requires_grad}
            found[f"step {self.training.step}"] = {n: whole(p.detach()).clone() for n, p in trained.items()}
            if save is not None and self.training.step == SAVED_AT:
                save.mkdir(exist_ok=True)
                self.training.save(save)

        run_steps(self.training, self.steps, self.batches, self.method, seed=0, on_step=on_step)
        probes = probe(self.loss, self.batches.train, CPU).probes
        kept = self.training.kept()
        if self.batches.worker.world_rank == 0:
            likeliest = torch.tensor([each.next_tokens for each in probes])
            found |= {"probes": {"likeliest": likeliest}, "kept": kept, "files": self.files(kept)}
        told = (*self.batches.measures, *(f"validation_{name}" for name in self.batches.measures))
        for name in (*told, "grad_norm"):
            values = [entry[name] for entry in self.training.metrics if name in entry]
            found[name] = {"of each step": torch.tensor(values)}
        return found

    def files(self, kept: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tensors in the files that are saved of it."""
        with tempfile.TemporaryDirectory() as name:
            model, state, folder = self.loss.model, self.loss.state_with(kept), Path(name)
            if isinstance(self.method, AdapterMethod):
                save_adapter(model, state, folder, base_name="tiny", base_revision=None)
            else:
                model.save_pretrained(folder, state_dict=state)
            (path,) = folder.glob("*.safetensors")
            return load_file(path)


def train(worker: Worker, strategy: str, model_dir: Path, table: TokenTable, out: Path) -> None:
    """All that comes of every method, and of going on from a checkpoint that other workers left."""
    found: Found = {}
    pairs = TokenTable.open(out / "pairs.tokens.arrow")
    for kind, method in METHODS.items():
        if strategy == "fsdp" and kind in WHOLE:
            continue
        of_pairs = isinstance(method.objective, DpoObjective)
        edges = TokenTable.open(out / f"{'pair ' if of_pairs else ''}edges.tokens.arrow")
        at_edges = {
            name: Batches(edges, edges, worker, (2 if of_pairs else 1) * size, method.objective)
            for name, size in BATCHES.items()
        }
        num_packs = [len(each.shares(edges, range(len(edges)))) for each in at_edges.values()]
        assert num_packs == [1, 8 // worker.world_size]
        run = Run(model_dir, pairs if of_pairs else table, method, worker, strategy)
        for name, rows in (PAIRS if of_pairs else ROWS).items():
            found[f"{kind}, gradients of {name}"] = run.gradients(run.batches, rows)
        for name, batches in at_edges.items():
            found[f"{kind}, gradients of edges {name}"] = run.gradients(batches, range(len(edges)))
        trained = run.train(out / f"{kind} {strategy}")
        found |= {f"{kind}, {name}": each for name, each in trained.items()}
    torch.save(found, out / f"{strategy} {worker.world_rank}.pt")


def go_on(
    worker: Worker, strategy: str, saved_by: str, model_dir: Path, table: TokenTable, out: Path
) -> None:
    """The same from a checkpoint that was saved under another strategy."""
    found: Found = {}
    for kind in ("full", "stopped", "lora", "full dpo", "lora dpo"):
        read = TokenTable.open(out / "pairs.tokens.arrow") if kind.endswith("dpo") else table
        run = Run(model_dir, read, METHODS[kind], worker, strategy)
        run.training.restore(out / f"{kind} {saved_by}")
        found |= {f"{kind}, {name}": each for name, each in run.train().items()}
    torch.save(found, out / f"{strategy} after {saved_by} {worker.world_rank}.pt")


def work(rank: int, model_dir: Path, table_path: Path, out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}/rendezvous", rank=rank, world_size=2)
    worker, table = Worker(rank, 2, CPU), TokenTable.open(table_path)
    for strategy in ("ddp", "fsdp"):
        train(worker, strategy, model_dir, table, out)
    go_on(worker, "fsdp", "alone", model_dir, table, out)
    go_on(worker, "ddp", "fsdp", model_dir, table, out)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def made(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what one worker and two have made."""
    out = tmp_path_factory.mktemp("workers")
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(5, 250, (length,), generator=generator).tolist() for length in LENGTHS]
    rows = [(f"row-{i}", Rendered(np.array(each), np.arange(len(each)) > i)) for i, each in enumerate(ids)]
    write_tokens(out / "train.tokens.arrow", rows)
    rows = []
    for name, (length, start) in EDGES.items():
        row = torch.randint(5, 250, (length,), generator=generator).numpy()
        rows.append((name, Rendered(row, np.arange(length) >= start)))
    write_tokens(out / "edges.tokens.arrow", rows)
    write_pairs(out / "pair edges.tokens.arrow")
    write_pairs(out / "pairs.tokens.arrow", SHAPES)
    table, alone = TokenTable.open(out / "train.tokens.arrow"), Worker(0, 1, CPU)
    train(alone, "alone", tiny_llama, table, out)
    # Forked from a process that has imported this file: importing it thrice takes longer than all else here.
    mp.get_context("forkserver").set_forkserver_preload([__name__])
    arguments = (tiny_llama, out / "train.tokens.arrow", out)
    mp.start_processes(work, arguments, nprocs=2, start_method="forkserver")
    go_on(alone, "alone", "fsdp", tiny_llama, table, out)
    return out


def assert_same(made: Path, name: str, *, expected: str) -> None:
    """All that was found under one name is as under another."""
    found, wanted = (torch.load(made / f"{each}.pt") for each in (name, expected))
    for what, tensors in found.items():
        assert_near(tensors, wanted[what], what, 1e-2 if what.startswith(("stopped, ", "8bit, ")) else 5e-5)


def test_steps_are_shared_out_unevenly_and_in_several_packs(made: Path) -> None:
    table = TokenTable.open(made / "train.tokens.arrow")
    steps = plan_steps(table.lengths, tokens_per_step=80, epochs=3, seed=0)
    counts = {len(pack_rows(s.rows, table.lengths, max_pack_tokens=24, num_workers=2)) for s in steps}
    assert max(counts) > 2
    assert any(count % 2 for count in counts)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("rank", [0, 1])
def test_two_workers_make_what_one_makes(made: Path, strategy: str, rank: int) -> None:
    found = torch.load(made / f"{strategy} {rank}.pt")
    kinds = METHODS.keys() - (WHOLE if strategy == "fsdp" else ())
    assert {what.partition(", ")[0] for what in found} == kinds
    stops = [int(what.rpartition(" ")[2]) for what in found if what.startswith("stopped, step ")]
    assert max(stops) == 3, "it stops early"
    assert_same(made, f"{strategy} {rank}", expected="alone 0")


@pytest.mark.parametrize("kind", METHODS)
def test_rows_at_the_edges_are_one_step_in_one_pack_or_in_eight(made: Path, kind: str) -> None:
    found = torch.load(made / "alone 0.pt")
    at_once, one_by_one = (found[f"{kind}, gradients of edges {name}"] for name in BATCHES)
    assert all(tensor.isfinite().all() for tensor in at_once.values())
    assert not kind.startswith("qlora") or all("lora_" in name for name in at_once if name != "sums")
    assert_near(one_by_one, at_once, kind)


@pytest.mark.parametrize(("strategy", "saved_by"), [("alone", "fsdp"), ("fsdp", "alone"), ("ddp", "fsdp")])
def test_any_workers_go_on_from_the_checkpoint_of_others(made: Path, strategy: str, saved_by: str) -> None:
    name = f"{strategy} after {saved_by} 0"
    steps = {what for what in torch.load(made / f"{name}.pt") if what.startswith("full, step")}
    assert steps == {f"full, step {number}" for number in range(SAVED_AT + 1, 10)}
    assert_same(made, name, expected="alone 0")
