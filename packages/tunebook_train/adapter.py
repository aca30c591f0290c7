"""Low-rank adapters by PEFT: put into a model, and saved as a folder that stock PEFT and vLLM read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.lora import Linear
from safetensors.torch import load_file
from torch import Tensor, nn

from tunebook_spec.errors import StageError
from tunebook_spec.method import AdapterMethod, QloraMethod
from tunebook_train.low_rank import LowRankLinear
from tunebook_train.targets import HEADS, weight_shapes

NAME = "default"
"""PEFT's own name for an only adapter."""
_PREFIX = "base_model.model."
"""Before the names of the base's modules in an adapter's file."""


def add_adapter(model: Any, method: AdapterMethod, base_dir: Path) -> PeftModel:
    """The model, frozen, with an adapter whose update is zero yet; its weights are float32.

    Raises:
        StageError: the adapter could be trained, but not merged into the base's files.
    """
    target, whole = method.target_modules, set(method.modules_to_save)
    tied = model.config.tie_word_embeddings and not whole.isdisjoint(HEADS)
    if tied:
        whole = whole - set(HEADS) | {HEADS[0]}
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=method.r,
        lora_alpha=method.alpha,
        lora_dropout=method.lora_dropout,
        target_modules=target if isinstance(target, str) else list(target),
        modules_to_save=sorted(whole) or None,
        ensure_weight_tying=tied,
        use_rslora=method.use_rslora,
        use_dora=method.use_dora,
        bias="none",
    )
    if not isinstance(method, QloraMethod):
        config._register_custom_module({nn.Linear: LowRankLinear})
    adapted = get_peft_model(model, config)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    check_stored(adapted.targeted_module_names, base_dir)
    return adapted


def save_adapter(
    model: PeftModel, state: dict[str, Tensor], folder: Path, *, base_name: str, base_revision: str | None
) -> None:
    """Write adapter_config.json and adapter_model.safetensors, of the weights in `state`."""
    config = model.peft_config[NAME]
    config.base_model_name_or_path, config.revision = base_name, base_revision
    if not isinstance(config.target_modules, str):
        config.target_modules = sorted(config.target_modules)
    model.save_pretrained(folder, state_dict=state, save_embedding_layers=False)
    (folder / "README.md").unlink()


def check_stored(modules: Iterable[str], base_dir: Path) -> None:
    """Refuse an adapter that could be trained but not merged.

    Raises:
        StageError: a module's weight is not in the base's files under its own name.
    """
    stored = weight_shapes(base_dir)
    for module in modules:
        if f"{module}.weight" not in stored:
            raise StageError(
                f"the adapter updates {module}, but the base model's files hold no {module}.weight: this"
                " architecture stores its weights in another form; leave it out of method.target_modules"
            )


@dataclass(frozen=True)
class Adapter:
    """A saved adapter, to be merged into its base."""

    config: LoraConfig
    tensors: dict[str, Tensor]

    @classmethod
    def load(cls, folder: Path) -> Adapter:
        config = LoraConfig.from_pretrained(folder)
        tensors = load_file(folder / "adapter_model.safetensors")
        return cls(config, {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()})

    @property
    def modules(self) -> list[str]:
        """Names of the base's modules that it updates."""
        end = ".lora_A.weight"
        return [name.removesuffix(end) for name in self.tensors if name.endswith(end)]

    def merged(self, name: str, weight_OI: Tensor) -> Tensor:
        """A weight of the base, by its tensor's name, as trained whole or with its update added."""
        if name in self.tensors:
            return self.tensors[name]
        module = name.removesuffix(".weight")
        if f"{module}.lora_A.weight" not in self.tensors:
            return weight_OI
        base = nn.Linear(weight_OI.shape[1], weight_OI.shape[0], bias=False, device="meta")
        base.weight = nn.Parameter(weight_OI.float(), requires_grad=False)
        layer = Linear(base, NAME, self.config, r=self.config.r, lora_alpha=self.config.lora_alpha)
        layer.lora_A[NAME].weight.data = self.tensors[f"{module}.lora_A.weight"]
        layer.lora_B[NAME].weight.data = self.tensors[f"{module}.lora_B.weight"]
        if self.config.use_dora:
            layer.lora_magnitude_vector[NAME].weight.data = self.tensors[f"{module}.lora_magnitude_vector"]
        layer.merge()
        return base.weight.data
