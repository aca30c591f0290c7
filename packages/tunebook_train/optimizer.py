"""AdamW with weight decay where it belongs, and the schedule of the learning rate."""

from __future__ import annotations

import math
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from tunebook_spec.method import Schedule, TrainingMethod

BETAS = (0.9, 0.95)
MIN_LR_RATE = 0.1
"""Share of the peak rate at the last step of `cosine_with_min_lr`."""


def make_optimizer(model: nn.Module, method: TrainingMethod) -> Optimizer:
    """Of what is trained, decays matrices; norms, biases and embeddings are left alone."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim >= 2 and id(p) not in embeddings]
    rest = [p for p in trained if p.ndim < 2 or id(p) in embeddings]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": method.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    if method.optim == "adamw_8bit":
        return _adamw_8bit(groups, method.learning_rate)
    return AdamW(groups, lr=method.learning_rate, betas=BETAS, fused=True)


def _adamw_8bit(groups: list[dict[str, Any]], learning_rate: float) -> Optimizer:
    """Moments in 8 bits but for embeddings, whose rare rows 8 bits would lose."""
    from bitsandbytes.optim import AdamW8bit

    class AdamWOfGroups(AdamW8bit):  # type: ignore[misc]
        def get_config(self, group_index: int, index: int, group: dict[str, Any]) -> dict[str, Any]:
            config = super().get_config(group_index, index, group)
            return {**config, "optim_bits": group["optim_bits"]}

    decayed, rest = groups
    of_bits = [{**decayed, "optim_bits": 8}, {**rest, "optim_bits": 32}]
    return AdamWOfGroups(of_bits, lr=learning_rate, betas=BETAS)


def make_schedule(optimizer: Optimizer, method: TrainingMethod, num_steps: int) -> LambdaLR:
    kind, warmup = method.lr_scheduler_type, max(1, round(num_steps * method.warmup_ratio))
    return LambdaLR(optimizer, lambda step: rate_share(kind, step, num_steps, warmup))


def rate_share(kind: Schedule, step: int, num_steps: int, warmup: int) -> float:
    """Share of the peak rate at a 0-based step.

    The last step of `cosine_with_min_lr` has the minimum. What falls to 0 would get there a step later, as
    upstream has it: a last step at a rate of 0 would do nothing.
    """
    if step < warmup:
        return (step + 1) / warmup
    after, falling = step - warmup, max(1, num_steps - warmup)
    match kind:
        case "cosine_with_min_lr":
            done = min(1.0, after / max(1, num_steps - 1 - warmup))
            return MIN_LR_RATE + (1 - MIN_LR_RATE) * 0.5 * (1 + math.cos(math.pi * done))
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(1.0, after / falling)))
        case "linear":
            return max(0.0, 1 - after / falling)
        case "constant_with_warmup":
            return 1.0
