"""RMSNorm in half the passes over all tokens, forward and backward, and without a float32 copy that is kept.

Zhang and Sennrich 2019 (arXiv 1910.07467), as transformers' Llama and its like compute it: in float32, back
in the type of what came in, times the weight.

Shapes: T tokens, C hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

_TRIED_TOKENS = 3


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TC: Tensor, weight_C: Tensor, eps: float) -> Tensor:
        norm_T1 = torch.linalg.vector_norm(x_TC.float(), dim=-1, keepdim=True)
        scale_T1 = norm_T1.square_().div_(x_TC.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x_TC, weight_C, scale_T1)
        return _normed(x_TC, scale_T1).to(x_TC.dtype) * weight_C

    @staticmethod
    def backward(ctx: Any, grad_TC: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x_TC, weight_C, scale_T1 = ctx.saved_tensors
        normed_TC = _normed(x_TC, scale_T1)
        grad_weight = None
        if ctx.needs_input_grad[1]:
            products_TC = grad_TC * normed_TC
            grad_weight = products_TC.flatten(0, -2).sum(0).to(weight_C.dtype)
        own_TC = (grad_TC * weight_C).float()  # ours to change: a product
        along_T1 = torch.linalg.vecdot(own_TC, normed_TC)[..., None].div_(x_TC.shape[-1])
        grad_x = own_TC.addcmul_(normed_TC, along_T1, value=-1).mul_(scale_T1).to(x_TC.dtype)
        return grad_x, grad_weight, None


def _normed(x_TC: Tensor, scale_T1: Tensor) -> Tensor:
    """In float32. Products of two types take several times as long."""
    return x_TC * scale_T1 if x_TC.dtype == torch.float32 else x_TC.float().mul_(scale_T1)


_rms_norm: Callable[[Tensor, Tensor, float], Tensor] = _RMSNorm.apply


def _forward(self: Any, hidden_states: Tensor) -> Tensor:
    return _rms_norm(hidden_states, self.weight, self.variance_epsilon)


def use_fast_norms(model: nn.Module) -> int:
    """Have those of a model's norms compute so that say the same; how many they are."""
    num = 0
    for module in model.modules():
        weight, eps = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
        if isinstance(weight, Tensor) and weight.dim() == 1 and isinstance(eps, float):
            x_TC = torch.linspace(
                -3, 5, _TRIED_TOKENS * len(weight), device=weight.device, dtype=weight.dtype
            )
            x_TC = x_TC.view(_TRIED_TOKENS, -1)
            with torch.no_grad():
                own, fast = module(x_TC), _rms_norm(x_TC, weight, eps)
            if own.dtype == fast.dtype and torch.allclose(own, fast, rtol=4 * torch.finfo(own.dtype).eps):
                module.forward = MethodType(_forward, module)
                num += 1
    return num
