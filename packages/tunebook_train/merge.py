"""Stage `merge`: trained weights to a folder that any server reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tunebook_model.folder import BEHAVIOUR_FILES
from tunebook_run.progress import Advance
from tunebook_spec.models import Frozen

MODEL = "model"
SHIPPED = tuple(pattern for pattern in BEHAVIOUR_FILES if "safetensors" not in pattern)
"""Of the base, byte for byte: what training rendered with is what serving renders with."""


class MergeResult(Frozen):
    dtype: str
    parameters: int
    """Tied ones once."""

    def summary(self) -> str:
        return (
            f"{self.parameters / 1e6:.1f}M parameters in {self.dtype}, with the base's tokenizer and template"
        )


def merge(*, weights_dir: Path, base_dir: Path, out: Path, advance: Advance) -> MergeResult:
    """Write `model/`: the trained weights in the base's own type, and all that the base shipped beside."""
    target = out / MODEL
    target.mkdir(exist_ok=True)
    config = json.loads((base_dir / "config.json").read_text())
    # Folders written before transformers 4.56 call it torch_dtype; one that says nothing is read as float32.
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    shards = sorted(weights_dir.glob("*.safetensors"))
    parameters = 0
    for number, shard in enumerate(shards, start=1):
        tensors = {name: tensor.to(getattr(torch, dtype)) for name, tensor in load_file(shard).items()}
        parameters += sum(tensor.numel() for tensor in tensors.values())
        save_file(tensors, target / shard.name, metadata={"format": "pt"})
        advance(number, len(shards))
    for index in weights_dir.glob("*.safetensors.index.json"):
        shutil.copy(index, target)
    for pattern in SHIPPED:
        for path in base_dir.glob(pattern):
            shutil.copy(path, target)
    return MergeResult(dtype=dtype, parameters=parameters)
