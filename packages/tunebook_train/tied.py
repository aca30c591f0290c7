"""Embeddings that are the head's weight too: one gradient for both, where autograd makes two and adds them.

Shapes: T tokens, C hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding


@dataclass
class TiedGradient:
    """The gradient of one forward's tied weight: begun by the head, ended by the embeddings.

    In a backward the head comes first, since what it reads was made of the embeddings.
    """

    weight_VC: Tensor
    padding_idx: int | None
    so_far_VC: Tensor | None = None

    @classmethod
    def of(cls, model: Any) -> TiedGradient | None:
        """Of a model whose tied weight is trained; none where there is nothing to share."""
        embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
        is_plain = type(embeddings) is nn.Embedding and type(head) is nn.Linear
        if not is_plain or embeddings.weight is not head.weight or not embeddings.weight.requires_grad:
            return None
        return cls(embeddings.weight, embeddings.padding_idx)

    def embed(self, input_ids_T: Tensor) -> Tensor:
        """Their embeddings [T, C]."""
        apply: Callable[..., Tensor] = _Embedding.apply
        return apply(self.weight_VC, input_ids_T, self)


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight_VC: Tensor, input_ids_T: Tensor, tied: TiedGradient) -> Tensor:
        ctx.save_for_backward(input_ids_T)
        ctx.tied = tied
        return embedding(input_ids_T, weight_VC)

    @staticmethod
    def backward(ctx: Any, grad_TC: Tensor) -> tuple[Tensor | None, ...]:
        (input_ids_T,) = ctx.saved_tensors
        whole_VC, ctx.tied.so_far_VC = ctx.tied.so_far_VC, None
        if ctx.tied.padding_idx is not None:  # which nn.Embedding does not train
            grad_TC = grad_TC.masked_fill((input_ids_T == ctx.tied.padding_idx)[:, None], 0)
        return whole_VC.index_add_(0, input_ids_T, grad_TC), None, None
