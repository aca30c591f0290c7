"""Stage `merge`: trained weights to a folder that any server reads."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tunebook_model.folder import RENDERING_FILES, weight_files
from tunebook_run.progress import Advance
from tunebook_spec.fields import Frozen
from tunebook_spec.method import MergeBase
from tunebook_train.inputs import MergeInputs
from tunebook_train.job import ADAPTER, WEIGHTS
from tunebook_train.merge_probes import MergeProbes

MODEL = "model"
"""Of the base, byte for byte: what training rendered with is what serving renders with."""


class MergeResult(Frozen):
    dtype: str
    parameters: int
    """Tied ones once."""
    into: MergeBase | None = None
    """Of a base that was quantised for training: what the adapter was merged into."""
    quantisation_error: float | None = None
    """Norm of what the dequantised weights differ by, over the norm of the weights that were quantised."""

    def summary(self) -> str:
        line = f"{self.parameters / 1e6:.1f}M parameters in {self.dtype}"
        if self.into is not None:
            line += f", merged into the {'dequantised base' if self.into == 'dequantised' else 'base'}"
            line += f" (the two differ by {self.quantisation_error:.2%})"
        return f"{line}, with the base's tokenizer and template"


Tune = Callable[[str, Tensor], Tensor]
"""From a tensor's name and what it was to what it is now, in any type."""


def merge(
    inputs: MergeInputs, *, trained_dir: Path, base_dir: Path, out: Path, advance: Advance
) -> MergeResult:
    """Write `model/`: the tuned weights in the base's own type, and all that the base shipped beside.

    Beside it, what the trained model said, for whoever serves this one; not where an adapter is merged into
    another base than the one it was trained against.

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
    has_adapter = (trained_dir / ADAPTER).is_dir()
    source = base_dir if has_adapter else trained_dir / WEIGHTS
    error = _Error()
    tune: Tune = _unchanged
    if has_adapter:
        tune = _adapter(trained_dir / ADAPTER, base_dir)
    if inputs.into is not None:
        tune = _requantised(trained_dir, inputs.into, tune, error)
    shards = weight_files(source)
    parameters = 0
    for number, shard in enumerate(shards, start=1):
        with safe_open(shard, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        for name, tensor in tensors.items():
            own = tensor.dtype if has_adapter else getattr(torch, dtype)
            tensors[name] = tune(name, tensor).to(own)
        parameters += sum(tensor.numel() for tensor in tensors.values())
        save_file(tensors, target / shard.name, metadata={"format": "pt"})
        advance(number, len(shards))
    for index in source.glob("*.safetensors.index.json"):
        shutil.copy(index, target)
    for pattern in RENDERING_FILES:
        for path in base_dir.glob(pattern):
            shutil.copy(path, target)
    if inputs.into != "base":
        MergeProbes.read(trained_dir).through(dtype).write(out)
    return MergeResult(
        dtype=dtype,
        parameters=parameters,
        into=inputs.into,
        quantisation_error=error.relative if inputs.into else None,
    )


def _unchanged(name: str, tensor: Tensor) -> Tensor:
    return tensor


def _adapter(folder: Path, base_dir: Path) -> Tune:
    from tunebook_train.adapter import Adapter, check_stored  # PEFT takes seconds to import

    adapter = Adapter.load(folder)
    check_stored(adapter.modules, base_dir)
    return adapter.merged


@dataclass
class _Error:
    """How far the dequantised weights are from what they were."""

    squared: float = 0.0
    squared_norm: float = 0.0

    def add(self, weight: Tensor, dequantised: Tensor) -> None:
        self.squared += float((dequantised.float() - weight.float()).square().sum())
        self.squared_norm += float(weight.float().square().sum())

    @property
    def relative(self) -> float:
        return math.sqrt(self.squared / self.squared_norm)


def _requantised(trained_dir: Path, into: MergeBase, tune: Tune, error: _Error) -> Tune:
    """The same on the base that training saw, if that is wanted; measures the difference in any case."""
    from tunebook_train.quantise import Quantised

    quantised = Quantised.read(trained_dir)
    names = {f"{module}.weight" for module in quantised.modules}

    def tuned(name: str, tensor: Tensor) -> Tensor:
        if name not in names:
            return tune(name, tensor)
        dequantised = quantised.dequantised(tensor)
        error.add(tensor, dequantised)
        return tune(name, dequantised if into == "dequantised" else tensor)

    return tuned
