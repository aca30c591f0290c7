"""Which floating-point type this machine computes in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch


@dataclass(frozen=True)
class Precision:
    dtype: Literal["bfloat16", "float32"]
    """A torch dtype by name; vLLM takes the same name."""
    reason: str
    """One sentence, to be said aloud."""


def compute_dtype() -> Precision:
    """bf16 where the hardware computes in it; elsewhere it is emulated, many times slower than fp32."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision("bfloat16", f"bfloat16, which {name} computes in")
        return Precision("float32", f"float32, because {name} does not compute in bfloat16")
    return cpu_precision(torch.cpu.get_capabilities())


def common(of_workers: Sequence[Precision]) -> Precision:
    """What all workers of a training compute in: one that has to emulate bf16 would hold up the others."""
    return next((each for each in of_workers if each.dtype == "float32"), of_workers[0])


def cpu_precision(capabilities: Mapping[str, Any]) -> Precision:
    """The same for a CPU with the given `torch.cpu.get_capabilities()`."""
    for flag in ("amx_bf16", "avx512_bf16"):
        if capabilities.get(flag):
            return Precision("bfloat16", f"bfloat16, which this CPU computes in ({flag})")
    return Precision("float32", "float32, because this CPU has neither AMX nor AVX512_BF16")
