"""FSDP2: every worker holds an even part of each weight, of its gradient and of its optimizer state.

What is not sharded is a plain tensor, whole on every worker; all but `shard` take both.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map_only
from transformers.modeling_layers import GradientCheckpointingLayer

from tunebook_train.step import SupervisedLoss


def shard(loss: SupervisedLoss, device: torch.device) -> None:
    """Leave this worker its part of every weight, on the device; each must have loaded the same model.

    Layers are gathered one at a time to compute, in the types they are kept in: autocast rounds after that,
    as it does where nothing is sharded. So a device never holds more than its parts, the embeddings and
    head, and a layer or two. Until here each worker has the whole base on its CPU, 4 bytes a parameter to
    train all weights: that is the peak there, times the workers of a host.
    """
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for module in loss.modules():
        if isinstance(module, GradientCheckpointingLayer):  # a decoder layer of any architecture
            fully_shard(module, mesh=mesh)
    # Else embeddings would stay whole after a forward without a backward, and be read as if they were parts.
    fully_shard(loss, mesh=mesh, reshard_after_forward=True)
    for method in ("own_loss", "log_probabilities", "row_log_probabilities"):
        register_fsdp_forward_method(loss, method)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, where DDP wraps it; FSDP changes it in place."""
    return cast(nn.Module, model.module) if isinstance(model, DistributedDataParallel) else model


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; all workers take part."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def is_first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def gathered(tree: Any, *, copy: bool = False) -> Any:
    """The same with whole tensors on the CPU of rank 0, and None for each elsewhere; all workers take part.

    One after the other, so that no other worker ever holds more than one of them. A tensor that is whole and
    there already is not copied unless asked for.
    """

    def gather(tensor: Tensor) -> Tensor | None:
        each = whole(tensor.detach())
        return each.to("cpu", copy=copy) if is_first() else None

    return tree_map_only(Tensor, gather, tree)


def part_of(content: Tensor, like: Tensor) -> Tensor:
    """A copy of this worker's part of a whole tensor that every worker has, cut as another one is."""
    if isinstance(like, DTensor):
        return distribute_tensor(content, like.device_mesh, like.placements, src_data_rank=None)
    return content.clone()


def fill(tensor: Tensor, content: Tensor | None) -> None:
    """Copy a whole tensor that rank 0 has into one of its own, or into one that all workers have parts of.

    All workers take part.
    """
    with torch.no_grad():
        if isinstance(tensor, DTensor):
            source = torch.empty(tensor.shape, dtype=tensor.dtype) if content is None else content
            tensor.copy_(distribute_tensor(source, tensor.device_mesh, tensor.placements))
        elif content is not None:
            tensor.copy_(content)
