"""Stage `merge`: trained weights to a folder that any server reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tunebook_model.folder import BEHAVIOUR_FILES
from tunebook_run.progress import Advance
from tunebook_spec.errors import IntegrityError
from tunebook_spec.models import Frozen
from tunebook_train.inputs import MergeInputs

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


def merge(
    inputs: MergeInputs, *, weights_dir: Path, base_dir: Path, out: Path, advance: Advance
) -> MergeResult:
    """Write `model/`: the trained weights in the base's own type, and all that the base shipped beside.

    Where the spec keeps a share of the base, the weighted mean is taken in float32.

    Raises:
        IntegrityError: base and trained weights are not of the same tensors.
    """
    base = _read(base_dir) if inputs.base_share else {}
    target = out / MODEL
    target.mkdir(exist_ok=True)
    config = json.loads((base_dir / "config.json").read_text())
    # Folders written before transformers 4.56 call it torch_dtype; one that says nothing is read as float32.
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    shards = sorted(weights_dir.glob("*.safetensors"))
    parameters = 0
    for number, shard in enumerate(shards, start=1):
        trained = load_file(shard)
        if base and not trained.keys() <= base.keys():
            missing = ", ".join(sorted(trained.keys() - base.keys()))
            raise IntegrityError(f"the base in {base_dir} has no weights {missing} to be merged with")
        tensors = {
            name: (torch.lerp(tensor, base[name].float(), inputs.base_share) if base else tensor).to(
                getattr(torch, dtype)
            )
            for name, tensor in trained.items()
        }
        parameters += sum(tensor.numel() for tensor in tensors.values())
        save_file(tensors, target / shard.name, metadata={"format": "pt"})
        advance(number, len(shards))
    for index in weights_dir.glob("*.safetensors.index.json"):
        shutil.copy(index, target)
    for pattern in SHIPPED:
        for path in base_dir.glob(pattern):
            shutil.copy(path, target)
    return MergeResult(dtype=dtype, parameters=parameters)


def _read(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: tensor for shard in folder.glob("*.safetensors") for name, tensor in load_file(shard).items()
    }
