"""The training loop of one worker; alone or under DDP, with the same global batch and the same loss."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tunebook_data.tokens import TokenTable
from tunebook_spec.errors import StageError
from tunebook_spec.models import FullMethod
from tunebook_train.checkpoint import Training
from tunebook_train.pack import Pack, Step, num_supervised, pack_rows, share_out


@dataclass(frozen=True)
class Worker:
    world_rank: int
    world_size: int
    device: torch.device

    def total(self, value: Tensor) -> float:
        """The sum over all workers."""
        if self.world_size > 1:
            dist.all_reduce(value)
        return float(value)


@dataclass(frozen=True)
class Batches:
    """The token tables, and this worker's share of any rows of theirs."""

    train: TokenTable
    validation: TokenTable
    worker: Worker
    max_pack_tokens: int

    def packs(self, table: TokenTable, rows: Sequence[int]) -> list[Pack]:
        shares = share_out(rows, table.lengths.tolist(), num_workers=self.worker.world_size)
        mine = shares[self.worker.world_rank]
        packs = pack_rows(mine, table.lengths.tolist(), max_pack_tokens=self.max_pack_tokens)
        return [Pack.of(table, pack, self.worker.device) for pack in packs]


def run_steps(
    training: Training,
    steps: Sequence[Step],
    batches: Batches,
    method: FullMethod,
    *,
    on_step: Callable[[], None],
) -> None:
    """Take every step that is left, and call `on_step` after each; validate before the first and at the end.

    Raises:
        StageError: the loss is no number any more; names the step and its rows.
    """
    started, tokens = time.monotonic(), 0
    if training.step == 0:
        training.metrics.append({"step": 0, "validation_loss": validate(training.model, batches)})
    for index in range(training.step, len(steps)):
        entry = take_step(training, steps[index], batches, method)
        tokens += entry["tokens"]
        seconds = time.monotonic() - started
        training.step = index + 1
        entry |= {"seconds": round(seconds, 2), "tokens_per_s": round(tokens / seconds, 1)}
        training.metrics.append({"step": training.step, "epoch": steps[index].epoch, **entry})
        if training.step == len(steps):
            loss = validate(training.model, batches)
            training.metrics.append({"step": training.step, "validation_loss": loss})
        on_step()


def take_step(training: Training, step: Step, batches: Batches, method: FullMethod) -> dict[str, Any]:
    """One optimizer step; the gradient is that of the mean loss over the whole global batch."""
    worker, table = batches.worker, batches.train
    supervised = num_supervised(table, step.rows)
    packs = batches.packs(table, step.rows)
    losses = torch.zeros((), device=worker.device)
    for pack, weight, last in _weighted(packs, batches, step):
        with _gradients_kept_here(training.model, not last):
            loss = training.model(pack)
            # DDP averages over workers; the global batch wants their sum.
            (loss * (weight * worker.world_size / supervised)).backward()
        losses += loss.detach() * weight
    mean = worker.total(losses) / supervised
    if not torch.isfinite(torch.tensor(mean)):
        rows = ", ".join(table.row_id(row) for row in step.rows)
        raise StageError(
            f"the loss is {mean} at step {training.step + 1}, rows {rows}; lower method.learning_rate"
        )
    norm = nn.utils.clip_grad_norm_(training.model.parameters(), method.max_grad_norm)
    rate = training.schedule.get_last_lr()[0]
    training.optimizer.step()
    training.schedule.step()
    training.optimizer.zero_grad()
    return {
        "loss": mean,
        "learning_rate": rate,
        "grad_norm": float(norm),
        "tokens": int(sum(table.lengths[row] for row in step.rows)),
        "supervised_tokens": supervised,
    }


def validate(model: nn.Module, batches: Batches) -> float | None:
    """Mean negative log-likelihood of the validation rows; None without any."""
    table = batches.validation
    rows = range(len(table))
    supervised = num_supervised(table, rows)
    if not supervised:
        return None
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    losses = torch.zeros((), device=batches.worker.device)
    with torch.no_grad():
        for pack in batches.packs(table, rows):
            losses += inner(pack)
    return batches.worker.total(losses) / supervised


def _weighted(packs: list[Pack], batches: Batches, step: Step) -> Iterator[tuple[Pack, float, bool]]:
    """Packs with their weight, and whether each is the last; a worker without rows takes one at weight 0."""
    if not packs:
        yield Pack.of(batches.train, step.rows[:1], batches.worker.device), 0.0, True
    for index, pack in enumerate(packs):
        yield pack, 1.0, index == len(packs) - 1


def _gradients_kept_here(model: nn.Module, kept: bool) -> contextlib.AbstractContextManager[Any]:
    """Under DDP, gradients travel with the last pack of a step only."""
    if kept and isinstance(model, DistributedDataParallel):
        return model.no_sync()
    return contextlib.nullcontext()
