"""Cross-entropy of the language-model head, a chunk of supervised positions at a time.

The gradients are made together with the loss, so that the logits of a chunk are computed once and never kept.
(torch's own `F.linear_cross_entropy` does likewise, but adds the loss up in bfloat16 when that is what it
computes in.) Where what a position counts follows from its log-probability, which is known too late for that,
logits are computed again on the way back.

Shapes: N supervised positions, K alternatives of a target, C hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tunebook_train.tied import TiedGradient

CHUNK = 256
"""Positions whose logits exist at once."""


def summed_cross_entropy(
    hidden_NC: Tensor,
    weight_VC: Tensor,
    targets_NK: Tensor,
    probabilities_NK: Tensor,
    dtype: torch.dtype,
    tied: TiedGradient | None = None,
) -> Tensor:
    """Weighted sum over positions of the cross-entropy with the target distribution, in float32 and nats.

    Args:
        hidden_NC: last hidden states.
        weight_VC: of the head.
        targets_NK: token ids.
        probabilities_NK: of these, float32; a position's sum to its weight.
        dtype: what the products are computed in.
        tied: takes the weight's gradient, and hands it on; none: it is this function's own.
    """
    apply: Callable[..., Tensor] = _SummedCrossEntropy.apply
    training = torch.is_grad_enabled()
    return apply(hidden_NC.to(dtype), weight_VC, targets_NK, probabilities_NK, training, tied)


def target_log_probabilities(
    hidden_NC: Tensor,
    weight_VC: Tensor,
    targets_N: Tensor,
    dtype: torch.dtype,
    tied: TiedGradient | None = None,
) -> Tensor:
    """Natural log-probability of each position's target [N], float32.

    The way back takes one product by the head more than that of `summed_cross_entropy`.

    Args:
        hidden_NC: last hidden states.
        weight_VC: of the head.
        targets_N: token ids.
        dtype: what the products are computed in.
        tied: takes the weight's gradient, and hands it on; none: it is this function's own.
    """
    apply: Callable[..., Tensor] = _TargetLogProbabilities.apply
    return apply(hidden_NC.to(dtype), weight_VC, targets_N, tied)


class _TargetLogProbabilities(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NC: Tensor, weight_VC: Tensor, targets_N: Tensor, tied: TiedGradient | None
    ) -> Tensor:
        ctx.save_for_backward(hidden_NC, weight_VC, targets_N)
        ctx.tied = tied
        weight = weight_VC.to(hidden_NC.dtype)
        log_N = torch.zeros(len(targets_N), device=hidden_NC.device)
        for start in range(0, len(targets_N), CHUNK):
            chunk = slice(start, start + CHUNK)
            logits = (hidden_NC[chunk] @ weight.t()).float()
            log_N[chunk] = logits.gather(1, targets_N[chunk, None])[:, 0] - logits.logsumexp(1)
        return log_N

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        hidden_NC, weight_VC, targets_N = ctx.saved_tensors
        _, grad_hidden, grad_weight = _loss_and_gradients(
            hidden_NC, weight_VC, targets_N[:, None], -grad_N[:, None], *ctx.needs_input_grad[:2]
        )
        if ctx.tied:
            ctx.tied.so_far_VC, grad_weight = grad_weight, None
        return grad_hidden, grad_weight, None, None


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NC: Tensor,
        weight_VC: Tensor,
        targets_NK: Tensor,
        probabilities_NK: Tensor,
        training: bool,
        tied: TiedGradient | None,
    ) -> Tensor:
        wants_hidden, wants_weight = (training and needed for needed in ctx.needs_input_grad[:2])
        loss, *gradients = _loss_and_gradients(
            hidden_NC, weight_VC, targets_NK, probabilities_NK, wants_hidden, wants_weight
        )
        ctx.gradients, ctx.tied = gradients, tied
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None  # scaled in place, so that they serve once
        grad_hidden, grad_weight = (None if each is None else each.mul_(grad) for each in gradients)
        if ctx.tied:
            ctx.tied.so_far_VC, grad_weight = grad_weight, None
        return grad_hidden, grad_weight, None, None, None, None


def _loss_and_gradients(
    hidden_NC: Tensor,
    weight_VC: Tensor,
    targets_NK: Tensor,
    wanted_NK: Tensor,
    wants_hidden: bool,
    wants_weight: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The summed cross-entropy with what is wanted of each target, and those of its gradients that are."""
    weight = weight_VC.to(hidden_NC.dtype)
    grad_hidden = torch.empty_like(hidden_NC) if wants_hidden else None
    grad_weight: Tensor | None = None
    loss = torch.zeros((), device=hidden_NC.device)
    for start in range(0, len(targets_NK), CHUNK):
        chunk = slice(start, start + CHUNK)
        hidden, targets, wanted = hidden_NC[chunk], targets_NK[chunk], wanted_NK[chunk]
        log_probabilities = (hidden @ weight.t()).float().log_softmax(1)
        loss -= (log_probabilities.gather(1, targets) * wanted).sum()
        if not (wants_hidden or wants_weight):
            continue
        probabilities = log_probabilities.exp_().mul_(wanted.sum(1, keepdim=True))
        grad_logits = probabilities.scatter_add_(1, targets, -wanted).to(weight.dtype)
        if grad_hidden is not None:
            torch.mm(grad_logits, weight, out=grad_hidden[chunk])
        if not wants_weight:
            continue
        if grad_weight is None:
            grad_weight = (grad_logits.t() @ hidden).to(weight_VC.dtype)
        elif weight.dtype == grad_weight.dtype:
            grad_weight.addmm_(grad_logits.t(), hidden)
        else:
            grad_weight += grad_logits.t() @ hidden
    if wants_weight and grad_weight is None:
        grad_weight = torch.zeros_like(weight_VC)
    return loss, grad_hidden, grad_weight
