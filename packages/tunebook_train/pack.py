"""Which rows make a step, and how they become packs.

A step is a set of rows, chosen by (seed, epoch) alone: any number of workers, packed in any way, sees the
same global batch. Packing is a matter of the machine: rows laid end to end, without padding. Rows of like
length share a pack, so that the padded batch of attention wastes little.

Shapes: T tokens of a pack, N supervised ones among them, K alternatives of a target at most.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tunebook_data.tokens import TokenTable


@dataclass(frozen=True)
class Step:
    epoch: int
    rows: tuple[int, ...]
    """Indices into the token table."""


def plan_steps(lengths: npt.NDArray[np.int32], *, tokens_per_step: int, epochs: int, seed: int) -> list[Step]:
    """Every optimizer step of a training, in order; each epoch sees each row once.

    The steps of an epoch are as even as they can be: a short last one would be noise at the full rate.
    """
    steps: list[Step] = []
    for epoch in range(epochs):
        order = np.random.default_rng((seed, epoch)).permutation(len(lengths)).tolist()
        steps += [Step(epoch, tuple(part)) for part in cut_evenly(order, lengths, tokens_per_step)]
    return steps


def pack_rows(
    rows: Iterable[int], lengths: npt.NDArray[np.int32], *, max_pack_tokens: int, num_workers: int = 1
) -> list[list[int]]:
    """Packs of like size: as few as fit, but as many for each worker where there are rows enough.

    A row longer than a pack has one to itself.
    """
    ordered = sorted(rows, key=lambda row: (-lengths[row], row))
    return cut_evenly(ordered, lengths, max_pack_tokens, multiple_of=num_workers)


def cut_evenly(
    order: list[int], lengths: npt.NDArray[np.int32], capacity: int, *, multiple_of: int = 1
) -> list[list[int]]:
    """Cut a sequence of rows into parts of at most `capacity` tokens, the largest as small as can be."""
    ends = np.cumsum(lengths[order], dtype=np.int64)
    num_parts = math.ceil(len(_cuts(ends, capacity)) / multiple_of) * multiple_of
    smaller = bisect_left(range(1, capacity), -num_parts, key=lambda tokens: -len(_cuts(ends, tokens))) + 1
    cuts = _cuts(ends, smaller)
    return [order[start:end] for start, end in pairwise([0, *cuts])]


def _cuts(ends: npt.NDArray[np.int64], capacity: int) -> list[int]:
    """Where parts end that are each filled as far as they go, which makes the fewest."""
    cuts: list[int] = []
    start, taken = 0, 0
    while start < len(ends):
        start = max(start + 1, int(np.searchsorted(ends, taken + capacity, side="right")))
        taken = int(ends[start - 1])
        cuts.append(start)
    return cuts


@dataclass(frozen=True)
class Pack:
    row_ids: tuple[str, ...]
    input_ids_T: Tensor
    position_ids_T: Tensor
    """Starts again at 0 in every row."""
    lengths: tuple[int, ...]
    """Tokens of each row."""
    predicts_N: Tensor
    """Places whose hidden state predicts a supervised token: one before each of them."""
    targets_NK: Tensor
    """Token ids: the supervised token itself, or the likeliest of a row's soft targets."""
    probabilities_NK: Tensor
    """Of these, times the row's weight, float32; 0 where a position has fewer than K."""

    @classmethod
    def of(cls, table: TokenTable, rows: Sequence[int], device: torch.device) -> Pack:
        ids = [table.input_ids(row) for row in rows]
        lengths = tuple(len(each) for each in ids)
        # The first token of a row is predicted by nothing in it.
        masks = [np.concatenate(([False], table.loss_mask(row)[1:])) for row in rows]
        all_ids = np.concatenate(ids).astype(np.int64)
        supervised = np.flatnonzero(np.concatenate(masks))
        targets, probabilities = _targets(table, rows, all_ids[supervised], [int(m.sum()) for m in masks])
        positions = np.concatenate([np.arange(length) for length in lengths])
        return cls(
            row_ids=tuple(table.row_id(row) for row in rows),
            input_ids_T=torch.from_numpy(all_ids).to(device),
            position_ids_T=torch.from_numpy(positions).to(device),
            lengths=lengths,
            predicts_N=torch.from_numpy(supervised - 1).to(device),
            targets_NK=torch.from_numpy(targets).to(device),
            probabilities_NK=torch.from_numpy(probabilities).to(device),
        )

    @classmethod
    def empty(cls, device: torch.device) -> Pack:
        """The share of a worker that has no rows: one token, nothing supervised, gradients of zero."""
        token, none = (torch.zeros(n, dtype=torch.int64, device=device) for n in (1, 0))
        return cls((), token, token, (1,), none, none[:, None], torch.zeros(0, 1, device=device))


def _targets(
    table: TokenTable, rows: Sequence[int], own_N: npt.NDArray[np.int64], counts: Sequence[int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Token ids and weighted probabilities of every supervised position; `counts` of them in each row."""
    soft = [table.soft_targets(row) for row in rows]
    width = max((each.ids_NK.shape[1] for each in soft if each), default=1)
    targets = np.zeros((len(own_N), width), dtype=np.int64)
    probabilities = np.zeros((len(own_N), width), dtype=np.float32)
    targets[:, 0], probabilities[:, 0] = own_N, 1
    start = 0
    for each, count in zip(soft, counts, strict=True):
        if each:
            place = np.s_[start : start + count, : each.ids_NK.shape[1]]
            # A row's first token is predicted by nothing, so a target of it falls away.
            skip = len(each.ids_NK) - count
            targets[place], probabilities[place] = each.ids_NK[skip:], each.probabilities_NK[skip:]
        start += count
    weights = np.repeat(np.array([table.weight(row) for row in rows], np.float32), counts)
    return targets, probabilities * weights[:, None]


def supervised_weight(table: TokenTable, rows: Iterable[int]) -> float:
    """Supervised tokens of rows, each by its row's weight: what their losses are normalised by."""
    return sum(table.weight(row) * int(table.loss_mask(row)[1:].sum()) for row in rows)
