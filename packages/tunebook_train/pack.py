"""Which rows make a step, and how they become packs.

A step is a set of rows, chosen by (seed, epoch) alone: any number of workers, packed in any way, sees the
same global batch. Packing is a matter of the machine: rows laid end to end, without padding, without what
follows the last place that predicts, and with what several of them begin with once. Rows of like length share
a pack, so that the padded batch of attention wastes little.

Shapes: T tokens of a pack, N supervised ones among them, R rows, K alternatives of a target at most.
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
from tunebook_train.prefixes import SharedPrefix, shared_prefixes


@dataclass(frozen=True)
class Step:
    epoch: int
    rows: tuple[int, ...]
    """Indices into the token table."""


def plan_steps(
    lengths: npt.NDArray[np.int32],
    *,
    tokens_per_step: int,
    epochs: int,
    seed: int,
    together: int = 1,
    rows_per_step: int | None = None,
) -> list[Step]:
    """Every optimizer step of a training, in order; each epoch sees each row once.

    The steps of an epoch are as even as they can be: a short last one would be noise at the full rate.

    Args:
        lengths: tokens of each row.
        tokens_per_step: that a step may have at most.
        epochs: times that each row is seen.
        seed: of the order.
        together: rows that follow one another in the table and stay together: 2 where they are pairs.
        rows_per_step: that a step may have at most, or pairs, in place of tokens; none: tokens decide.
    """
    steps: list[Step] = []
    sizes, capacity = _sizes(lengths, together), tokens_per_step
    if rows_per_step is not None:
        sizes, capacity = np.ones_like(sizes), rows_per_step
    for epoch in range(epochs):
        order = np.random.default_rng((seed, epoch)).permutation(len(sizes)).tolist()
        parts = cut_evenly(order, sizes, capacity)
        steps += [Step(epoch, tuple(_rows_of(part, together))) for part in parts]
    return steps


def pack_rows(
    rows: Iterable[int],
    lengths: npt.NDArray[np.int32],
    *,
    max_pack_tokens: int,
    num_workers: int = 1,
    together: int = 1,
) -> list[list[int]]:
    """Packs of like size: as few as fit, but as many for each worker where there are rows enough.

    A row longer than a pack has one to itself; so have rows that stay together, as in `plan_steps`.
    """
    sizes = _sizes(lengths, together)
    ordered = sorted({row // together for row in rows}, key=lambda unit: (-sizes[unit], unit))
    parts = cut_evenly(ordered, sizes, max_pack_tokens, multiple_of=num_workers)
    return [_rows_of(part, together) for part in parts]


def _sizes(lengths: npt.NDArray[np.int32], together: int) -> npt.NDArray[np.int32]:
    """Tokens of each so many rows."""
    sizes: npt.NDArray[np.int32] = lengths.reshape(-1, together).sum(1, dtype=np.int32)
    return sizes


def _rows_of(units: Iterable[int], together: int) -> list[int]:
    return [unit * together + place for unit in units for place in range(together)]


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
    """In each row, counted from its first token."""
    lengths: tuple[int, ...]
    """Tokens of each row that are read, shared ones included."""
    predicts_N: Tensor
    """Places whose hidden state predicts a supervised token: one before each of them."""
    targets_NK: Tensor
    """Token ids: the supervised token itself, or the likeliest of a row's soft targets."""
    probabilities_NK: Tensor
    """Of these, times the row's weight, float32; 0 where a position has fewer than K."""
    rows_N: Tensor
    """Which of the pack's rows each of these is in."""
    shared: tuple[SharedPrefix, ...] = ()
    """What rows begin with that stands in the pack once."""
    reference_R: Tensor | None = None
    """Of a pack of pairs, the log-probability of each row by the untrained model; a preferred answer is
    followed by the other one. None: rows are no pairs."""

    @classmethod
    def of(
        cls,
        table: TokenTable,
        rows: Sequence[int],
        device: torch.device,
        reference: Tensor | None = None,
    ) -> Pack:
        """Some rows of a table; `reference` is the `reference_R` of all its rows."""
        ids = [table.input_ids(row) for row in rows]
        # The first token of a row is predicted by nothing in it.
        supervised = [np.flatnonzero(table.loss_mask(row)[1:]) + 1 for row in rows]
        counts = [len(places) for places in supervised]
        all_targets = [each[places] for each, places in zip(ids, supervised, strict=True)]
        targets, probabilities = _targets(table, rows, np.concatenate(all_targets).astype(np.int64), counts)
        lengths = tuple(int(places[-1]) if len(places) else 1 for places in supervised)
        shared = shared_prefixes(ids, [int(places[0]) - 1 if len(places) else 0 for places in supervised])
        starts = np.zeros(len(rows), dtype=np.int64)
        for prefix in shared:
            starts[list(prefix.readers)] = prefix.length
        own = [slice(start, end) for start, end in zip(starts, lengths, strict=True)]
        positions = [np.arange(each.start, each.stop) for each in own]
        # What a place of a row is moved by in the pack.
        shifts = np.cumsum([0, *map(len, positions)])[:-1] - starts
        predicts = [places - 1 + shift for places, shift in zip(supervised, shifts, strict=True)]
        own_ids = np.concatenate([each[part] for each, part in zip(ids, own, strict=True)]).astype(np.int64)
        return cls(
            row_ids=tuple(table.row_id(row) for row in rows),
            input_ids_T=torch.from_numpy(own_ids).to(device),
            position_ids_T=torch.from_numpy(np.concatenate(positions)).to(device),
            lengths=lengths,
            predicts_N=torch.from_numpy(np.concatenate(predicts)).to(device),
            targets_NK=torch.from_numpy(targets).to(device),
            probabilities_NK=torch.from_numpy(probabilities).to(device),
            rows_N=torch.from_numpy(np.repeat(np.arange(len(rows)), counts)).to(device),
            shared=shared,
            reference_R=None if reference is None else reference[list(rows)].to(device),
        )

    @classmethod
    def empty(cls, device: torch.device, *, of_pairs: bool = False) -> Pack:
        """The share of a worker that has no rows: one token, nothing supervised, gradients of zero."""
        token, none = (torch.zeros(n, dtype=torch.int64, device=device) for n in (1, 0))
        nothing = torch.zeros(0, device=device)
        return cls(
            (),
            token,
            token,
            (1,),
            none,
            none[:, None],
            nothing[:, None],
            none,
            reference_R=nothing if of_pairs else None,
        )


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
