"""Serves a run's tuned model: vLLM behind the OpenAI protocol, with the chat template of training."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

from tunebook_inference.vllm_engine import MAX_NUM_SEQS, Dtype, engine_environment, machine_arguments
from tunebook_model.precision import compute_dtype
from tunebook_run.record import RunRecord, find_run
from tunebook_run.settings import Settings
from tunebook_run.store import Store
from tunebook_spec import Spec

logger = logging.getLogger(__name__)


def serve(name: str, settings: Settings, *, host: str, port: int) -> None:
    """Become the server of `medical`, `medical@latest` or `medical@3`; does not return.

    The model answers to `medical@3`, and to `medical@latest` where that is the run that was asked for.
    """
    store = Store(settings.storage_url, settings.cache_dir)
    record = find_run(store, name)
    model = store.download(record.stage("merge").key) / "model"
    precision = compute_dtype()
    names = served_names(name, record)
    logger.info("serving %s at http://%s:%d/v1 in %s", ", ".join(names), host, port, precision.reason)
    command = arguments(record, model, names=names, dtype=precision.dtype, host=host, port=port)
    os.execve(sys.executable, [sys.executable, *command], {**os.environ, **engine_environment()})


def served_names(asked: str, record: RunRecord) -> list[str]:
    number = f"{record.scenario}@{record.number}"
    is_latest = asked in (record.scenario, f"{record.scenario}@latest")
    return [f"{record.scenario}@latest", number] if is_latest else [number]


def arguments(
    record: RunRecord, model: Path, *, names: list[str], dtype: Dtype, host: str, port: int
) -> list[str]:
    """VLLM's command line for this run."""
    spec = Spec.model_validate(record.spec)
    decoding = spec.evaluation.decoding
    options = [
        *("-m", "vllm.entrypoints.openai.api_server", "--model", str(model)),
        *("--host", host, "--port", str(port), "--dtype", dtype),
        *("--served-model-name", *names),
        *("--chat-template", str(model / "chat_template.jinja")),
        # A request without a temperature is answered as the run was evaluated.
        *("--generation-config", "vllm"),
        *("--override-generation-config", json.dumps({"temperature": decoding.temperature})),
        *("--disable-log-stats", "--max-num-seqs", str(MAX_NUM_SEQS)),
    ]
    for argument, value in machine_arguments(model, dtype, MAX_NUM_SEQS).items():
        name = argument.replace("_", "-")
        if isinstance(value, bool):
            options.append(f"--{name}" if value else f"--no-{name}")
        else:
            options += [f"--{name}", str(value)]
    if pinned := spec.base_model.chat_template_kwargs:
        options += ["--default-chat-template-kwargs", json.dumps(pinned)]
    return options
