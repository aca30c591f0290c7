"""AdamW with weight decay where it belongs, and the schedule of the learning rate."""

from __future__ import annotations

import math

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from tunebook_spec.models import TrainingMethod

BETAS = (0.9, 0.95)
FINAL_SHARE = 0.1
"""Of the peak rate, at the last step."""


def make_optimizer(model: nn.Module, method: TrainingMethod) -> AdamW:
    """Of what is trained, decays matrices; norms, biases and embeddings are left alone."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim >= 2 and id(p) not in embeddings]
    rest = [p for p in trained if p.ndim < 2 or id(p) in embeddings]
    groups = [
        {"params": decayed, "weight_decay": method.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=method.learning_rate, betas=BETAS, fused=True)


def make_schedule(optimizer: AdamW, method: TrainingMethod, num_steps: int) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: rate_share(step, num_steps, method.warmup_ratio))


def rate_share(step: int, num_steps: int, warmup_ratio: float) -> float:
    """Share of the peak rate at a 0-based step: linear warm-up, then cosine to a tenth."""
    warmup = max(1, round(num_steps * warmup_ratio))
    if step < warmup:
        return (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, num_steps - 1 - warmup))
    return FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * done))
