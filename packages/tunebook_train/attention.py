"""Causal attention in packs of rows, where no row sees another.

A pack is one long sequence for every matrix product of the model. For attention alone its rows become one
padded batch: spread to [segments, longest], attend, and gather back. Causality hides the padding, which
stands last in each segment. Tokens that several rows begin with stand in the pack once; each of these rows
reads their keys and values, and the gradients of these are summed up.

Shapes: T tokens of the pack, S segments, L tokens of the longest, H query and G key-value heads, R queries
that share keys (H / G * L of them), D head_dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from tunebook_train.prefixes import SharedPrefix

SEGMENT_ATTENTION = "tunebook_segments"
"""What a model is given as `attn_implementation` to attend by segments."""
SHORT = 256
"""On a CPU, segments up to this length attend by plain matrix products: torch's own attention takes up to
four times as long there, most of it in its backward (AMD Zen 4, bfloat16, head_dim 64)."""


@dataclass(frozen=True)
class Segments:
    """Where the rows of a pack lie; made once per pack and used by every layer."""

    place_T: Tensor
    """For each token, its place in the flattened padded batch, in the first row that has it."""
    num_segments: int
    longest: int
    shared: tuple[SharedPrefix, ...] = ()

    @classmethod
    def of(
        cls, lengths: tuple[int, ...], device: torch.device, shared: tuple[SharedPrefix, ...] = ()
    ) -> Segments:
        longest, starts = max(lengths), [0] * len(lengths)
        for prefix in shared:
            for row in prefix.readers:
                starts[row] = prefix.length
        places = torch.arange(longest, device=device)
        start_S1, end_S1 = torch.tensor((starts, lengths), device=device)[..., None]
        is_own_SL = (places >= start_S1) & (places < end_S1)
        return cls(is_own_SL.flatten().nonzero().squeeze(1), len(lengths), longest, shared)

    def pad(self, rows: Tensor) -> Tensor:
        """Rows of T to rows of S * L, with zeros between."""
        return rows.new_zeros(self.num_segments * self.longest, rows.shape[1]).index_copy_(
            0, self.place_T, rows
        )

    def share(self, padded: Tensor) -> Tensor:
        """Copy what rows of S * L share to all that read it, in place."""
        rows_SL = padded.view(self.num_segments, self.longest, -1)
        for prefix in self.shared:
            rows_SL[list(prefix.readers), : prefix.length] = rows_SL[prefix.row, : prefix.length]
        return padded

    def sum_up(self, padded: Tensor) -> Tensor:
        """The gradient of `share`."""
        if not self.shared:
            return padded
        summed = padded.clone(memory_format=torch.contiguous_format)
        rows_SL = summed.view(self.num_segments, self.longest, -1)
        for prefix in reversed(self.shared):
            rows_SL[prefix.row, : prefix.length] += rows_SL[list(prefix.readers), : prefix.length].sum(0)
        return summed


class _Pad(torch.autograd.Function):
    """`Segments.pad`, and its inverse below: each is the other's gradient.

    Autograd does not know that no place is taken twice, and would add rows up one by one.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, segments: Segments, shares: bool) -> Tensor:
        ctx.segments, ctx.shares = segments, shares
        padded = segments.pad(rows)
        return segments.share(padded) if shares else padded

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        own = ctx.segments.sum_up(grad) if ctx.shares else grad
        return own.index_select(0, ctx.segments.place_T), None, None


class _Unpad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, segments: Segments) -> Tensor:
        ctx.segments = segments
        return rows.index_select(0, segments.place_T)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.segments.pad(grad), None


_pad: Callable[[Tensor, Segments, bool], Tensor] = _Pad.apply
_unpad: Callable[[Tensor, Segments], Tensor] = _Unpad.apply


def attend_segments(
    module: nn.Module,
    query_1HTD: Tensor,
    key_1GTD: Tensor,
    value_1GTD: Tensor,
    attention_mask: Tensor | None,
    *,
    segments: Segments,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within each segment, by transformers' protocol: the result is [1, T, H, D], without weights."""

    def padded(states_1NTD: Tensor, *, shares: bool) -> Tensor:
        rows = _pad(states_1NTD[0].transpose(0, 1).flatten(1), segments, shares)
        heads, head_dim = states_1NTD.shape[1::2]
        return rows.view(segments.num_segments, segments.longest, heads, head_dim).transpose(1, 2)

    states = (
        padded(query_1HTD, shares=False),
        padded(key_1GTD, shares=True),
        padded(value_1GTD, shares=True),
    )
    if query_1HTD.device.type == "cpu" and segments.longest <= SHORT and not dropout:
        out_SHLD = attend_plainly(*states, scaling)
    else:
        out_SHLD = F.scaled_dot_product_attention(
            *states, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=True
        )
    out = _unpad(out_SHLD.transpose(1, 2).flatten(2).flatten(0, 1), segments)
    return out.view(1, len(out), *out_SHLD.shape[1::2]), None


def attend_plainly(query_SHLD: Tensor, key_SGLD: Tensor, value_SGLD: Tensor, scaling: float | None) -> Tensor:
    """Causal attention with every score at hand; the heads that share keys are one product."""
    num_segments, num_groups, length, head_dim = key_SGLD.shape
    # One product for all: what is hidden is added to it, and the softmax of bfloat16 sums up in float32.
    query_BRD = query_SHLD.reshape(num_segments * num_groups, -1, head_dim)
    hidden_LL = query_BRD.new_full((length, length), -math.inf).triu(1)
    hidden_RL = hidden_LL.repeat(query_BRD.shape[1] // length, 1)
    scale = head_dim**-0.5 if scaling is None else scaling
    scores_BRL = torch.baddbmm(hidden_RL, query_BRD, key_SGLD.flatten(0, 1).mT, alpha=scale)
    out_BRD = scores_BRL.softmax(-1) @ value_SGLD.flatten(0, 1)
    return out_BRD.view(num_segments, -1, length, head_dim)


AttentionInterface.register(SEGMENT_ATTENTION, attend_segments)
