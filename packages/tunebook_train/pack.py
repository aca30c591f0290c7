"""Which rows make a step, and how a worker's share of them becomes packs.

A step is a set of rows, chosen by (seed, epoch) alone: any number of workers, packed in any way, sees the
same global batch. Packing is a matter of the machine: rows laid end to end, without padding.

Shapes: T tokens of a pack, N supervised ones among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tunebook_data.tokens import TokenTable


@dataclass(frozen=True)
class Step:
    epoch: int
    rows: tuple[int, ...]
    """Indices into the token table."""


def plan_steps(lengths: Sequence[int], *, tokens_per_step: int, epochs: int, seed: int) -> list[Step]:
    """Every optimizer step of a training, in order; each epoch sees each row once."""
    steps: list[Step] = []
    for epoch in range(epochs):
        order = np.random.default_rng((seed, epoch)).permutation(len(lengths))
        rows: list[int] = []
        tokens = 0
        for row in map(int, order):
            if rows and tokens + lengths[row] > tokens_per_step:
                steps.append(Step(epoch, tuple(rows)))
                rows, tokens = [], 0
            rows.append(row)
            tokens += int(lengths[row])
        steps.append(Step(epoch, tuple(rows)))
    return steps


def share_out(rows: Iterable[int], lengths: Sequence[int], *, num_workers: int) -> list[list[int]]:
    """Deal rows to workers, longest first to whom has least."""
    shares: list[list[int]] = [[] for _ in range(num_workers)]
    loads = [0] * num_workers
    for row in sorted(rows, key=lambda row: (-lengths[row], row)):
        least = loads.index(min(loads))
        shares[least].append(row)
        loads[least] += int(lengths[row])
    return shares


def pack_rows(rows: Iterable[int], lengths: Sequence[int], *, max_pack_tokens: int) -> list[list[int]]:
    """Best fit, longest first; a row longer than a pack has one to itself."""
    packs: list[list[int]] = []
    room: list[int] = []
    for row in sorted(rows, key=lambda row: (-lengths[row], row)):
        fits = [pack for pack, left in enumerate(room) if left >= lengths[row]]
        if fits:
            best = min(fits, key=room.__getitem__)
            packs[best].append(row)
            room[best] -= int(lengths[row])
        else:
            packs.append([row])
            room.append(max_pack_tokens - int(lengths[row]))
    return packs


@dataclass(frozen=True)
class Pack:
    input_ids_T: Tensor
    position_ids_T: Tensor
    """Starts again at 0 in every row."""
    lengths: tuple[int, ...]
    """Tokens of each row."""
    predicts_N: Tensor
    """Places whose hidden state predicts a supervised token: one before each of them."""
    targets_N: Tensor

    @classmethod
    def of(cls, table: TokenTable, rows: Sequence[int], device: torch.device) -> Pack:
        ids = [table.input_ids(row) for row in rows]
        lengths = tuple(len(each) for each in ids)
        # The first token of a row is predicted by nothing in it.
        masks = [np.concatenate(([False], table.loss_mask(row)[1:])) for row in rows]
        all_ids = np.concatenate(ids).astype(np.int64)
        supervised = np.flatnonzero(np.concatenate(masks))
        positions = np.concatenate([np.arange(length) for length in lengths])
        return cls(
            input_ids_T=torch.from_numpy(all_ids).to(device),
            position_ids_T=torch.from_numpy(positions).to(device),
            lengths=lengths,
            predicts_N=torch.from_numpy(supervised - 1).to(device),
            targets_N=torch.from_numpy(all_ids[supervised]).to(device),
        )


def num_supervised(table: TokenTable, rows: Iterable[int]) -> int:
    """Supervised tokens of rows, which their losses are normalised by."""
    return sum(int(table.loss_mask(row)[1:].sum()) for row in rows)
