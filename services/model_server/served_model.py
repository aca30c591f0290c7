"""What is served, from runs or base models, and the arguments of vLLM that serve it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model_server.engine import DRAIN_S
from model_server.fixed_arguments import FixedArguments
from tunebook_inference.vllm_requests import MAX_NUM_SEQS, machine_arguments
from tunebook_model.precision import compute_dtype
from tunebook_model.resolve import resolve
from tunebook_run.record import RunRecord, find_run
from tunebook_run.settings import Settings
from tunebook_run.stages import read_artifact
from tunebook_run.store import Store
from tunebook_spec.errors import InputError

GPU_SHARE = 0.9
"""Of a GPU's memory, shared by all engines."""
TEMPERATURE = 1.0
"""Of the protocol, where a request says nothing."""


@dataclass(frozen=True)
class ServedModel:
    folder: Path
    names: tuple[str, ...]
    """What clients may call it."""
    temperature: float = TEMPERATURE
    """Of requests that ask for none."""
    chat_template_kwargs: Mapping[str, str | bool] = field(default_factory=dict)
    """Fixed arguments of its chat template."""

    def arguments(self, *listen: str, gpu_share: float = GPU_SHARE) -> list[str]:
        """The arguments of vLLM's server, for its command line.

        Args:
            listen: where, as vLLM's own arguments.
            gpu_share: of a GPU's memory.
        """
        options = [
            *listen,
            *("--model", str(self.folder), "--served-model-name", *self.names),
            *("--disable-uvicorn-access-log", "--shutdown-timeout", str(DRAIN_S)),
        ]
        for argument, value in self.answer_arguments(gpu_share).items():
            name = argument.replace("_", "-")
            match value:
                case bool():
                    options.append(f"--{name}" if value else f"--no-{name}")
                case list():
                    options += [f"--{name}", *value]
                case dict():
                    options += [f"--{name}", json.dumps(value)]
                case _:
                    options += [f"--{name}", str(value)]
        return options

    def answer_arguments(self, gpu_share: float = GPU_SHARE) -> dict[str, Any]:
        """Those arguments, by name, that decide how requests are answered, on this machine.

        Args:
            gpu_share: of a GPU's memory.
        """
        dtype = compute_dtype().dtype
        fixed: dict[str, Any] = {}
        if self.chat_template_kwargs:
            fixed["default_chat_template_kwargs"] = dict(self.chat_template_kwargs)
            fixed["middleware"] = [f"{FixedArguments.__module__}.{FixedArguments.__name__}"]
        return {
            "dtype": dtype,
            "chat_template": str(self.folder / "chat_template.jinja"),
            "generation_config": "vllm",
            "override_generation_config": {"temperature": self.temperature},
            "max_num_seqs": MAX_NUM_SEQS,
            "gpu_memory_utilization": gpu_share,
            "enable_prompt_tokens_details": True,
            **machine_arguments(self.folder, dtype, MAX_NUM_SEQS),
            **fixed,
        }


def find_models(names: Sequence[str], settings: Settings) -> list[ServedModel]:
    """The models of runs by `medical`, `medical@latest` or `medical@3`, each once.

    A model answers to `medical@3`, and to `medical@latest` where that is the run that was asked for; a
    request without a temperature is answered as it was evaluated.

    Raises:
        InputError: there is no such run, or it has no model.
    """
    store = Store(settings.storage_url, settings.cache_dir)
    return [_of_run(store, record, its_names) for record, its_names in find_runs(store, names)]


def find_runs(store: Store, names: Sequence[str]) -> list[tuple[RunRecord, tuple[str, ...]]]:
    """Runs that have a model, and what clients may call it; as `find_models`, but nothing is downloaded.

    Raises:
        InputError: there is no such run, or it has no model.
    """
    found: dict[str, tuple[RunRecord, tuple[str, ...]]] = {}
    for name in names:
        record = find_run(store, name, having="merge")
        if read_artifact(store, record.merged.key) is None:
            raise InputError(f"the model of run {record.name} was cleaned away; run its spec again")
        _, known = found.get(record.name, (record, ()))
        found[record.name] = record, max(known, _names(name, record), key=len)
    return [*found.values()]


def find_model(name: str, settings: Settings) -> ServedModel:
    """The model of a run, or a base model by its name.

    Raises:
        InputError: there is no such model.
    """
    if "@" in name:
        return find_models([name], settings)[0]
    reference = settings.gateway.base_model(name)
    if reference is None:
        raise InputError(f"no base model {name!r}")
    ready = resolve(
        reference,
        assets_dir=settings.assets_dir,
        cache_dir=settings.cache_dir,
        hub_online=settings.hub_online,
        hf_token=settings.hf_token.get_secret_value() if settings.hf_token else None,
    )
    return ServedModel(ready.path, (name,), chat_template_kwargs=reference.chat_template_kwargs)


def _names(asked: str, record: RunRecord) -> tuple[str, ...]:
    is_latest = asked in (record.scenario, f"{record.scenario}@latest")
    return (f"{record.scenario}@latest", record.name) if is_latest else (record.name,)


def _of_run(store: Store, record: RunRecord, names: tuple[str, ...]) -> ServedModel:
    spec = record.read_spec()
    return ServedModel(
        store.download(record.merged.key) / "model",
        names,
        spec.evaluation.decoding.temperature,
        spec.base_model.chat_template_kwargs,
    )
