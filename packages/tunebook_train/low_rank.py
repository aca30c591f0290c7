"""A linear layer with its low-rank update as one step of autograd, and PEFT's layer that computes so.

PEFT takes what comes in to the float32 of the adapter and back, scales what the adapter says, and adds it:
each a pass over all tokens, forward and backward, beside products that are small.

Shapes: T tokens, I inputs, O outputs, R rank.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear
from torch import Tensor, nn


class _LowRankSum(torch.autograd.Function):
    """x W' + bias + scaling x A' B', of a frozen W and bias."""

    @staticmethod
    def forward(
        ctx: Any,
        x_TI: Tensor,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        a_RI: Tensor,
        b_OR: Tensor,
        scaling: float,
    ) -> Tensor:
        a, b = a_RI.to(x_TI.dtype), b_OR.to(x_TI.dtype)
        down_TR = x_TI @ a.t()
        ctx.save_for_backward(x_TI, weight_OI, a, b, down_TR)
        ctx.scaling, ctx.dtype = scaling, a_RI.dtype
        return F.linear(x_TI, weight_OI, bias_O).addmm_(down_TR, b.t(), alpha=scaling)

    @staticmethod
    def backward(ctx: Any, grad_TO: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, weight_OI, a, b, down_TR = ctx.saved_tensors
        up_TR = (grad_TO @ b).mul_(ctx.scaling)
        grad_x = (grad_TO @ weight_OI).addmm_(up_TR, a) if ctx.needs_input_grad[0] else None
        grad_b = (grad_TO.t() @ down_TR).to(ctx.dtype).mul_(ctx.scaling)
        return grad_x, None, None, (up_TR.t() @ x_TI).to(ctx.dtype), grad_b, None


_low_rank_sum: Callable[..., Tensor] = _LowRankSum.apply


class LowRankLinear(Linear):  # type: ignore[misc]
    """PEFT's layer, where its update is plain: one adapter, without dropout, bias or DoRA."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        (name,) = self.active_adapters
        is_plain = isinstance(self.lora_dropout[name], nn.Identity) and not (
            self.lora_bias[name] or self.lora_variant or self.disable_adapters or self.merged or kwargs
        )
        if not is_plain:
            theirs: Tensor = super().forward(x, *args, **kwargs)
            return theirs
        base, down, up = self.get_base_layer(), self.lora_A[name], self.lora_B[name]
        rows = x.to(base.weight.dtype).flatten(0, -2)
        out = _low_rank_sum(rows, base.weight, base.bias, down.weight, up.weight, self.scaling[name])
        return out.view(*x.shape[:-1], -1)
