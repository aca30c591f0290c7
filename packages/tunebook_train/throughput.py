"""How fast a training is, beside what its machine can do, and what memory it takes."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from tunebook_data.tokens import TokenTable
from tunebook_train.step import SupervisedLoss

MEASURED_S = 0.3
"""How long products are timed."""
SIZES = {"cpu": 1024, "cuda": 8192}
"""Their rows and columns, by kind of device."""


@dataclass(frozen=True)
class StepCost:
    """Floating point operations of a training step, forward and backward, that the model asks for.

    A product by a weight is 2 operations a token and parameter forward, 2 backward for the gradient of what
    came in, and 2 for that of the weight, where it is trained: 6 N D for a model trained whole (Kaplan et al.
    2020, arXiv 2001.08361, sec. 2.1), 4 N D for the frozen base of an adapter, and 6 for the adapter itself.
    Attention adds 12 L H D l^2 for a row of l tokens (PaLM, Chowdhery et al. 2022, arXiv 2204.02311,
    appendix B), half of which is masked. The head counts where a token is supervised, the look-up of
    embeddings not at all. What rows of a pack share is computed once, and so counts once.
    """

    per_token: float
    per_supervised: float
    per_square: float
    """For the square of each row's length."""

    @classmethod
    def of(cls, loss: SupervisedLoss) -> StepCost:
        decoder, head = loss.model.get_decoder(), loss.model.get_output_embeddings().weight
        embeddings = {id(m.weight) for m in decoder.modules() if isinstance(m, nn.Embedding)}
        weights = [p for p in decoder.parameters() if len(_shape(p)) > 1 and id(p) not in embeddings]
        config = loss.model.config
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            per_token=sum(map(_operations, weights)),
            per_supervised=_operations(head),
            per_square=6 * config.num_hidden_layers * config.num_attention_heads * head_dim,
        )

    def of_rows(self, table: TokenTable, rows: Sequence[int], computed_tokens: int) -> float:
        """Of rows whose packs have so many tokens."""
        lengths = table.lengths[list(rows)].astype(float)
        supervised = sum(int(table.loss_mask(row)[1:].sum()) for row in rows)
        return float(
            self.per_token * computed_tokens
            + self.per_supervised * supervised
            + self.per_square * (lengths**2).sum()
        )


def _shape(parameter: Tensor) -> Sequence[int]:
    """Of a 4-bit weight, that of the weight it stands for."""
    return parameter.quant_state.shape if hasattr(parameter, "quant_state") else parameter.shape


def _operations(weight: Tensor) -> float:
    return (6 if weight.requires_grad else 4) * math.prod(_shape(weight))


def gemm_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Floating point operations a second of the best of some square products: what this machine can do.

    On the threads of this process; takes less than half a second.
    """
    size = SIZES[device.type]
    generator = torch.Generator(device).manual_seed(0)
    a, b = torch.randn(2, size, size, generator=generator, device=device).to(dtype)
    a @ b  # whatever is set up at the first
    best, ends = math.inf, time.perf_counter() + MEASURED_S
    while best == math.inf or time.perf_counter() < ends:
        started = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def peak_memory(device: torch.device) -> int:
    """Most bytes that this process held so far: of the GPU, or resident where there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Of this program alone; what getrusage says is handed on from the process that started it.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


@dataclass
class Meter:
    """Times the steps of one attempt."""

    cost: StepCost
    rate: float
    """Floating point operations a second that all workers can do."""
    device: torch.device
    started: float = field(default_factory=time.monotonic)
    num_steps: int = 0
    """Done in this attempt."""

    def measure(
        self, table: TokenTable, rows: Sequence[int], computed_tokens: int, seconds: float, steps_left: int
    ) -> dict[str, float]:
        """What the metrics say of a step over `rows` that took `seconds` and is not counted yet.

        `computed_tokens` are those of the packs; tokens a second are the rows', however many share them.
        """
        self.num_steps += 1
        since = time.monotonic() - self.started
        return {
            "seconds": round(since, 2),
            "tokens_per_s": round(int(table.lengths[list(rows)].sum()) / seconds, 1),
            "mfu": round(self.cost.of_rows(table, rows, computed_tokens) / seconds / self.rate, 4),
            "peak_memory_gib": round(peak_memory(self.device) / 2**30, 3),
            "eta_s": round(since / self.num_steps * steps_left, 1),
        }
