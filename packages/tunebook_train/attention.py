"""Causal attention in packs of rows, where no row sees another.

A pack is one long sequence for every matrix product of the model. For the scores alone its segments become
one padded batch: gather to [segments, heads, longest, head_dim], attend, and scatter back.

Shapes: T tokens of the pack, S segments, L tokens of the longest one, H query heads, G key-value heads, D head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

SEGMENT_ATTENTION = "tunebook_segments"
"""Name under which `attend_segments` is known to transformers (`attn_implementation=`)."""


@dataclass(frozen=True)
class Segments:
    """Where each row of a pack lies; made once per pack and used by every layer."""

    pad_SL: Tensor
    """For each place of the padded batch, the token that stands there. Past a segment's end: token 0."""
    unpad_T: Tensor
    """For each token, its place in the flattened padded batch."""
    mask_LL: Tensor
    """0 where a query may look, -inf above the diagonal. Padding stands last, so this hides it too."""

    @classmethod
    def of(cls, lengths: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Segments:
        longest = max(lengths)
        lengths_S = torch.tensor(lengths, device=device)
        starts_S = lengths_S.cumsum(0) - lengths_S
        place_L = torch.arange(longest, device=device)
        is_token_SL = place_L < lengths_S[:, None]
        pad_SL = torch.where(is_token_SL, starts_S[:, None] + place_L, 0)
        mask_LL = torch.full((longest, longest), float("-inf"), device=device, dtype=dtype).triu(1)
        return cls(pad_SL=pad_SL, unpad_T=is_token_SL.flatten().nonzero().squeeze(1), mask_LL=mask_LL)


class _Reorder(torch.autograd.Function):
    """`rows[index]`, whose gradient is `grad[inverse]`.

    Each row is wanted once at most, apart from padding, whose gradient is zero; autograd cannot know that
    and would add the rows up one by one.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (inverse,) = ctx.saved_tensors
        return grad.index_select(0, inverse), None, None


def attend_segments(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    segments: Segments,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within each segment: query [1, H, T, D], key and value [1, G, T, D], to [1, T, H, D]."""
    num_segments, longest = segments.pad_SL.shape
    num_heads, head_dim = query.shape[1], query.shape[3]

    def padded(states: Tensor) -> Tensor:
        tokens = states[0].transpose(0, 1).flatten(1)
        rows = _Reorder.apply(tokens, segments.pad_SL.flatten(), segments.unpad_T)
        rows = rows.view(num_segments, longest, states.shape[1], head_dim).transpose(1, 2)
        if states.shape[1] != num_heads:
            rows = rows.repeat_interleave(num_heads // states.shape[1], dim=1)
        return rows.flatten(0, 1)

    query, key, value = padded(query), padded(key), padded(value)
    scores = torch.baddbmm(segments.mask_LL, query, key.transpose(1, 2), alpha=scaling)
    out = torch.bmm(scores.softmax(-1), value)
    out = out.view(num_segments, num_heads, longest, head_dim).transpose(1, 2).flatten(2).flatten(0, 1)
    out = _Reorder.apply(out, segments.unpad_T, segments.pad_SL.flatten())
    return out.view(1, -1, num_heads, head_dim), None


AttentionInterface.register(SEGMENT_ATTENTION, attend_segments)
