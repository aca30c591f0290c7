"""Stage `merge`: trained weights to a folder that any server reads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tunebook_model.folder import BEHAVIOUR_FILES, weight_files
from tunebook_run.progress import Advance
from tunebook_spec.models import Frozen

MODEL = "model"
WEIGHTS = "weights"
"""What training leaves where it trained all weights."""
ADAPTER = "adapter"
"""What it leaves where it trained an adapter: a PEFT folder."""
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


def merge(*, trained_dir: Path, base_dir: Path, out: Path, advance: Advance) -> MergeResult:
    """Write `model/`: the tuned weights in the base's own type, and all that the base shipped beside.

    An adapter is merged in float32, tensor by tensor; never is more than one file's worth of weights in
    memory.

    Raises:
        StageError: the adapter updates modules whose weights the base does not have.
    """
    target = out / MODEL
    target.mkdir(exist_ok=True)
    config = json.loads((base_dir / "config.json").read_text())
    # Folders written before transformers 4.56 call it torch_dtype; one that says nothing is read as float32.
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    tuned: Callable[[str, Tensor], Tensor]
    adapter_dir = trained_dir / ADAPTER
    if adapter_dir.is_dir():
        from tunebook_train.adapter import Adapter, check_stored  # PEFT takes seconds to import

        adapter = Adapter.load(adapter_dir)
        check_stored(adapter.modules, base_dir)
        source, tuned = base_dir, adapter.merged
    else:
        source, tuned = trained_dir / WEIGHTS, _in_type(getattr(torch, dtype))
    shards = weight_files(source)
    parameters = 0
    for number, shard in enumerate(shards, start=1):
        with safe_open(shard, framework="pt") as file:
            tensors = {name: tuned(name, file.get_tensor(name)) for name in file.keys()}
        parameters += sum(tensor.numel() for tensor in tensors.values())
        save_file(tensors, target / shard.name, metadata={"format": "pt"})
        advance(number, len(shards))
    for index in source.glob("*.safetensors.index.json"):
        shutil.copy(index, target)
    for pattern in SHIPPED:
        for path in base_dir.glob(pattern):
            shutil.copy(path, target)
    return MergeResult(dtype=dtype, parameters=parameters)


def _in_type(dtype: torch.dtype) -> Callable[[str, Tensor], Tensor]:
    return lambda name, tensor: tensor.to(dtype)
