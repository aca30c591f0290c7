"""The loss of a pack, inside the forward that DDP and FSDP wrap: only there are gradients synchronised."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.linear_cross_entropy_options import LinearCrossEntropyOptions
from transformers import AutoModelForCausalLM

from tunebook_train.attention import SEGMENT_ATTENTION, Segments
from tunebook_train.pack import Pack

HEAD_CHUNK = 256
"""Supervised tokens whose logits exist at once."""


class SupervisedLoss(nn.Module):
    """A causal language model whose output is its loss."""

    def __init__(self, model: Any, compute_dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.compute_dtype = compute_dtype

    def forward(self, pack: Pack) -> Tensor:
        """Sum over the supervised tokens of their negative log-likelihood, in nats; a scalar."""
        device = pack.input_ids_T.device
        segments = Segments.of(pack.lengths, device, self.compute_dtype)
        with self._autocast(device):
            hidden_TD = self.model.model(
                input_ids=pack.input_ids_T[None],
                position_ids=pack.position_ids_T[None],
                use_cache=False,
                segments=segments,
            ).last_hidden_state[0]
        loss: Tensor = F.linear_cross_entropy(
            hidden_TD.index_select(0, pack.predicts_N).to(self.compute_dtype),
            self.model.lm_head.weight.to(self.compute_dtype),
            pack.targets_N,
            reduction="sum",
            options=LinearCrossEntropyOptions(batch_chunk_size=HEAD_CHUNK, chunking_method=None),
        )
        return loss.float()

    def _autocast(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        if self.compute_dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=self.compute_dtype)


def load_model(folder: Path, compute_dtype: torch.dtype, device: torch.device) -> SupervisedLoss:
    """The base model with fp32 master weights, attending within rows alone."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=SEGMENT_ATTENTION
    )
    model.train()
    return SupervisedLoss(model, compute_dtype).to(device)
