"""The training loop of one worker; alone, under DDP or under FSDP, with the same global batch and loss."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tunebook_data.tokens import TokenTable
from tunebook_spec.errors import StageError
from tunebook_spec.method import SFT, AnyObjective, DpoObjective, TrainingMethod
from tunebook_train.checkpoint import Training
from tunebook_train.early_stopping import best_step, is_stale
from tunebook_train.pack import Pack, Step, pack_rows, supervised_weight
from tunebook_train.preference import MEASURES, preference_sums
from tunebook_train.sharding import unwrapped, whole
from tunebook_train.step import SupervisedLoss
from tunebook_train.throughput import Meter

_Told = TypeVar("_Told")


@dataclass(frozen=True)
class Worker:
    world_rank: int
    world_size: int
    device: torch.device

    def total(self, value: Tensor) -> float:
        """The sum over all workers."""
        return float(self.totals(value))

    def totals(self, values: Tensor) -> Tensor:
        """The sum of each over all workers, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, own: list[_Told]) -> list[_Told]:
        """What all workers tell, in the order of their ranks."""
        if self.world_size == 1:
            return own
        gathered: list[list[_Told]] = [[] for _ in range(self.world_size)]
        dist.all_gather_object(gathered, own)
        return [each for of_one in gathered for each in of_one]


@dataclass(frozen=True)
class Batches:
    """The token tables, and this worker's share of any rows of theirs."""

    train: TokenTable
    validation: TokenTable
    worker: Worker
    max_pack_tokens: int
    objective: AnyObjective = SFT

    @property
    def together(self) -> int:
        """Rows of a table that follow one another and share every step and pack."""
        return 2 if isinstance(self.objective, DpoObjective) else 1

    @property
    def measures(self) -> tuple[str, ...]:
        """What `sums` sums up, the loss first."""
        return MEASURES if isinstance(self.objective, DpoObjective) else MEASURES[:1]

    def weight(self, table: TokenTable, rows: Sequence[int]) -> float:
        """What the sums of rows are normalised by: their supervised tokens, or how many pairs they are."""
        if isinstance(self.objective, DpoObjective):
            return len(rows) / self.together
        return supervised_weight(table, rows)

    def sums(self, model: nn.Module, pack: Pack) -> Tensor:
        """The sums of `measures` over a pack [M]; the loss has gradients."""
        made: Tensor = model(pack)
        if isinstance(self.objective, DpoObjective):
            assert pack.reference_R is not None, "packs of pairs know what the untrained model says"
            return preference_sums(made, pack.reference_R, self.objective.beta)
        return made[None]

    def packs(self, table: TokenTable, rows: Sequence[int], reference: Tensor | None = None) -> list[Pack]:
        """As many for each worker: all take part in every step, and under FSDP in every pack.

        Args:
            table: one of the two.
            rows: of the table.
            reference: of pairs, what `reference_log_probabilities` says of the table.
        """
        device = self.worker.device
        empty = Pack.empty(device, of_pairs=reference is not None)
        shares = self.shares(table, rows)
        return [Pack.of(table, share, device, reference) if share else empty for share in shares]

    def shares(self, table: TokenTable, rows: Sequence[int]) -> list[list[int]]:
        """The rows of each of these packs; none of one that only makes them as many for each worker."""
        packs = pack_rows(
            rows,
            table.lengths,
            max_pack_tokens=self.max_pack_tokens,
            num_workers=self.worker.world_size,
            together=self.together,
        )
        rank, size = self.worker.world_rank, self.worker.world_size
        mine = packs[rank::size]
        return mine + [[]] * (math.ceil(len(packs) / size) - len(mine))


def run_steps(
    training: Training,
    steps: Sequence[Step],
    batches: Batches,
    method: TrainingMethod,
    *,
    seed: int,
    on_step: Callable[[], None],
    meter: Meter | None = None,
) -> None:
    """Take every step that is left, and call `on_step` after each; validate before the first and at the end.

    With early stopping, validate in between too, end where that brings nothing any more, and return to the
    best weights; the last of the metrics names their step.

    A meter adds its measures to the metrics of each step.

    What a step draws at random (dropout) follows from the seed, the step and the worker, so that a resumed
    training draws it again.

    Raises:
        StageError: the loss is no number any more; names the step and its rows. Or there is nothing to stop
            early by. All workers raise it.
    """
    stopping = method.early_stopping
    if stopping is not None and not batches.weight(batches.validation, range(len(batches.validation))):
        raise StageError(
            "method.early_stopping stops by the validation loss, and there are no validation rows; "
            "raise split.validation of a source, or leave early_stopping out"
        )

    def look() -> dict[str, float | None]:
        found = validate(training.model, batches, training.reference.get("validation"))
        loss = found["validation_loss"]
        is_whole = _holds_numbers(training.model, batches.worker) if loss is None else math.isfinite(loss)
        if training.step and not is_whole:  # what no update has touched, the first step tells by its rows
            raise StageError(
                f"after step {training.step} the validation loss is {loss}: weights are no numbers any more;"
                " lower method.learning_rate"
            )
        return found

    if isinstance(batches.objective, DpoObjective) and not training.reference:
        assert training.step == 0, "what was trained is no reference"
        training.reference = {
            side: reference_log_probabilities(training.model, batches, table)
            for side, table in (("train", batches.train), ("validation", batches.validation))
        }
    if training.step == 0:
        training.metrics.append({"step": 0, **look()})
    while training.step < len(steps) and not is_stale(training.metrics, stopping):
        index = training.step
        torch.manual_seed(_draw(seed, index, batches.worker.world_rank))
        started = time.monotonic()
        entry = take_step(training, steps[index], batches, method)
        if meter is not None:
            seconds = time.monotonic() - started
            rows, steps_left = steps[index].rows, len(steps) - index - 1
            entry |= meter.measure(batches.train, rows, entry["computed_tokens"], seconds, steps_left)
        training.step = index + 1
        training.metrics.append({"step": training.step, "epoch": steps[index].epoch, **entry})
        is_last = training.step == len(steps)
        if is_last or (stopping is not None and training.step % stopping.eval_steps == 0):
            training.metrics.append({"step": training.step, **look()})
            if stopping is not None and best_step(training.metrics) == training.step:
                training.keep_as_best()
        on_step()
    if stopping is not None:
        training.return_to_best()
        training.metrics.append({"step": best_step(training.metrics), "is_best": True})


def _holds_numbers(model: nn.Module, worker: Worker) -> bool:
    """Whether every weight that is trained is one, on any worker."""
    local = [getattr(each, "_local_tensor", each) for each in model.parameters() if each.requires_grad]
    bad = sum((~torch.isfinite(each.detach())).sum() for each in local)
    return not float(worker.total(torch.as_tensor(bad, dtype=torch.float32, device=worker.device)))


def _draw(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def take_step(training: Training, step: Step, batches: Batches, method: TrainingMethod) -> dict[str, Any]:
    """One optimizer step; the gradient is that of the mean loss over the whole global batch."""
    weight = batches.weight(batches.train, step.rows)
    packs = batches.packs(batches.train, step.rows, training.reference.get("train"))
    sums = accumulate(training.model, packs, batches.worker.world_size / weight, batches)
    norm = whole(nn.utils.clip_grad_norm_(training.model.parameters(), method.max_grad_norm))
    computed = sums.new_tensor([sum(len(pack.input_ids_T) for pack in packs)])
    *totals, num_computed = batches.worker.totals(torch.cat([sums.sum(0), computed])).tolist()
    means = [total / weight for total in totals]
    if not math.isfinite(means[0]) or not torch.isfinite(norm):
        _refuse(training.step + 1, means[0], float(norm), sums[:, 0], packs, batches.worker)
    rate = training.schedule.get_last_lr()[0]
    training.optimizer.step()
    training.schedule.step()
    training.optimizer.zero_grad()
    return {
        **dict(zip(batches.measures, means, strict=True)),
        "learning_rate": rate,
        "grad_norm": float(norm),
        "tokens": int(batches.train.lengths[list(step.rows)].sum()),
        "computed_tokens": int(num_computed),
    }


def accumulate(model: nn.Module, packs: Sequence[Pack], scale: float, batches: Batches) -> Tensor:
    """Add up the gradients of packs, each times `scale`; the sums over each pack [packs, M].

    Under DDP, gradients travel with the last pack only; under FSDP with each, so that none stays whole. Both
    average them over the workers; `scale` has to make that the sum.
    """
    made = []
    for pack in packs:
        is_last = pack is packs[-1]
        here = isinstance(model, DistributedDataParallel) and not is_last
        with cast(DistributedDataParallel, model).no_sync() if here else contextlib.nullcontext():
            sums = batches.sums(model, pack)
            loss: Tensor = sums[0] * scale
            loss.backward()  # type: ignore[no-untyped-call]
        made.append(sums.detach())
    return torch.stack(made)


def _refuse(step: int, mean: float, norm: float, losses: Tensor, packs: list[Pack], worker: Worker) -> None:
    """Stop before the optimizer has seen a gradient that is no number.

    Raises:
        StageError: names the rows of the packs whose loss is no number; of all packs if each loss is one.
    """
    bad = [pack for pack, loss in zip(packs, losses.tolist(), strict=True) if not math.isfinite(loss)]
    blamed = packs if math.isfinite(mean) else bad
    names = worker.gather([name for pack in blamed for name in pack.row_ids])
    raise StageError(
        f"step {step}: loss {mean}, gradient norm {norm}, in rows {', '.join(names)}; "
        "lower method.learning_rate or look at these rows"
    )


def validate(model: nn.Module, batches: Batches, reference: Tensor | None = None) -> dict[str, float | None]:
    """The mean of each measure over the validation rows, under its name; a loss of None without any."""
    table = batches.validation
    rows = range(len(table))
    weight = batches.weight(table, rows)
    if not weight:
        return {"validation_loss": None}
    inner = unwrapped(model)
    inner.eval()
    with torch.no_grad():
        packs = batches.packs(table, rows, reference)
        sums = torch.stack([batches.sums(inner, pack) for pack in packs]).sum(0)
    inner.train()
    totals = batches.worker.totals(sums).tolist()
    return {
        f"validation_{name}": total / weight for name, total in zip(batches.measures, totals, strict=True)
    }


def reference_log_probabilities(model: nn.Module, batches: Batches, table: TokenTable) -> Tensor:
    """What the model, as it is, gives each row of a table: float32, in nats, on the CPU."""
    inner = unwrapped(model)
    assert isinstance(inner, SupervisedLoss)
    made = torch.zeros(len(table), device=batches.worker.device)
    inner.eval()
    with torch.no_grad():
        for share in batches.shares(table, range(len(table))):
            device = batches.worker.device
            pack = Pack.of(table, share, device) if share else Pack.empty(device)
            made[share] = inner.row_log_probabilities(pack)
    inner.train()
    return batches.worker.totals(made).cpu()
