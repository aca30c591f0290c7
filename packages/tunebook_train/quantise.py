"""The 4-bit base of QLoRA (Dettmers et al. 2023, arXiv 2305.14314): NF4 with double quantisation.

Shapes: O and I, outputs and inputs of a linear layer.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from bitsandbytes.nn import Linear4bit
from torch import Tensor
from transformers import BitsAndBytesConfig

from tunebook_train.job import QUANTISED


@dataclass(frozen=True)
class Quantised:
    """What of a base was quantised, so that a merge can do it again."""

    dtype: str
    """What a weight was rounded to before, and is dequantised to."""
    modules: tuple[str, ...]

    @classmethod
    def of(cls, base: Any, dtype: torch.dtype) -> Quantised:
        """What was quantised of a base model, which may hold an adapter by now."""
        modules = [name for name, each in base.named_modules() if isinstance(each, Linear4bit)]
        plain = tuple(name.removesuffix(".base_layer") for name in modules)
        return cls(str(dtype).removeprefix("torch."), plain)

    @classmethod
    def read(cls, folder: Path) -> Quantised:
        content = json.loads((folder / QUANTISED).read_text())
        return cls(content["dtype"], tuple(content["modules"]))

    def write(self, folder: Path) -> None:
        (folder / QUANTISED).write_text(json.dumps(asdict(self), indent=1))

    def dequantised(self, weight_OI: Tensor) -> Tensor:
        """A weight as training computed with it, through NF4 and back."""
        rounded = weight_OI.to(getattr(torch, self.dtype))
        packed, state = quantize_4bit(rounded, compress_statistics=True, quant_type="nf4")
        dequantised: Tensor = dequantize_4bit(packed, state)
        return dequantised


def nf4(compute_dtype: torch.dtype) -> BitsAndBytesConfig:
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def keep_trainable(base: Any) -> None:
    """Keep validation from repacking weights for a CPU kernel that has no gradient."""
    for module in base.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
