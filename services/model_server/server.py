"""Serves tuned models of runs: vLLM behind the OpenAI protocol, with the chat template of training."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from model_server.engines import DRAIN_S, Engine
from model_server.fixed_arguments import ENVIRONMENT, FixedArguments
from tunebook_inference.vllm_engine import MAX_NUM_SEQS, Dtype, engine_environment, machine_arguments
from tunebook_model.precision import compute_dtype
from tunebook_run.record import RunRecord, find_run
from tunebook_run.settings import Settings
from tunebook_run.stages import read_artifact
from tunebook_run.store import Store
from tunebook_spec import Spec
from tunebook_spec.errors import InputError

GPU_SHARE = 0.9
"""Of a GPU's memory, shared by all engines."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServedRun:
    record: RunRecord
    model: Path
    """Folder of its merged model."""
    names: tuple[str, ...]
    """What clients may call it."""


def serve(
    names: Sequence[str], settings: Settings, *, host: str, port: int, traffic_file: Path | None = None
) -> None:
    """Serve runs by `medical`, `medical@latest` or `medical@3`; returns when it is told to stop, or never.

    A model answers to `medical@3`, and to `medical@latest` where that is the run that was asked for. One run
    is served by vLLM in the place of this process; several have an engine each, behind one address.

    Args:
        names: of the runs.
        settings: of this machine.
        host: address to listen on.
        port: likewise.
        traffic_file: says how requests are shared out, and what is logged.

    Raises:
        InputError: there is no such run, or it has no model.
        SpecError: something is wrong with the traffic file.
        StageError: an engine did not start, or ended.
    """
    runs = find_served(names, settings)
    dtype = compute_dtype()
    listed = ", ".join(name for run in runs for name in run.names)
    logger.info("serving %s at http://%s:%d/v1 in %s", listed, host, port, dtype.reason)
    if len(runs) == 1 and traffic_file is None:
        place = ("--host", host, "--port", str(port))
        command = [sys.executable, *arguments(runs[0], place, dtype=dtype.dtype)]
        os.execve(sys.executable, command, environment(runs[0]))
    from model_server.process import run as serve_all
    from model_server.traffic import Traffic, load_traffic

    known = [name for run in runs for name in run.names]
    traffic = load_traffic(traffic_file, known) if traffic_file else Traffic()
    log_folder = traffic_file.parent if traffic_file else Path()
    with tempfile.TemporaryDirectory(prefix="tunebook-") as folder:
        engines = []
        for run in runs:
            socket = Path(folder) / f"{run.record.name}.sock"
            place = ("--uds", str(socket), "--gpu-memory-utilization", str(GPU_SHARE / len(runs)))
            command = [sys.executable, *arguments(run, place, dtype=dtype.dtype)]
            engines.append(Engine(run.names, socket, command, environment(run)))
        serve_all(engines, traffic, log_folder, host=host, port=port)


def find_served(names: Sequence[str], settings: Settings) -> list[ServedRun]:
    """The runs by their names, each once.

    Raises:
        InputError: there is no such run, or it has no model.
    """
    store = Store(settings.storage_url, settings.cache_dir)
    runs: dict[str, ServedRun] = {}
    for name in names:
        record = find_run(store, name, having="merge")
        merged = record.stage("merge").key
        if read_artifact(store, merged) is None:
            raise InputError(f"the model of run {record.name} was cleaned away; run its spec again")
        found = ServedRun(record, store.download(merged) / "model", served_names(name, record))
        known = runs.get(record.name, found)
        longest = max(known.names, found.names, key=len)
        runs[record.name] = replace(found, names=longest)
    return list(runs.values())


def environment(run: ServedRun) -> dict[str, str]:
    """Of the process that serves this run."""
    fixed = Spec.model_validate(run.record.spec).base_model.chat_template_kwargs
    return {**os.environ, **engine_environment(), ENVIRONMENT: json.dumps(fixed)}


def served_names(asked: str, record: RunRecord) -> tuple[str, ...]:
    is_latest = asked in (record.scenario, f"{record.scenario}@latest")
    return (f"{record.scenario}@latest", record.name) if is_latest else (record.name,)


def arguments(run: ServedRun, place: Sequence[str], *, dtype: Dtype) -> list[str]:
    """VLLM's command line for this run; `place` says where it listens."""
    spec = Spec.model_validate(run.record.spec)
    decoding = spec.evaluation.decoding
    options = [
        *("-m", "vllm.entrypoints.openai.api_server", "--model", str(run.model)),
        *(*place, "--dtype", dtype),
        *("--served-model-name", *run.names),
        *("--chat-template", str(run.model / "chat_template.jinja")),
        # A request without a temperature is answered as the run was evaluated.
        *("--generation-config", "vllm"),
        *("--override-generation-config", json.dumps({"temperature": decoding.temperature})),
        *("--max-num-seqs", str(MAX_NUM_SEQS)),
        *("--enable-prompt-tokens-details", "--disable-uvicorn-access-log"),
        *("--shutdown-timeout", str(DRAIN_S)),
    ]
    for argument, value in machine_arguments(run.model, dtype, MAX_NUM_SEQS).items():
        name = argument.replace("_", "-")
        if isinstance(value, bool):
            options.append(f"--{name}" if value else f"--no-{name}")
        else:
            options += [f"--{name}", str(value)]
    if pinned := spec.base_model.chat_template_kwargs:
        options += ["--default-chat-template-kwargs", json.dumps(pinned)]
        options += ["--middleware", f"{FixedArguments.__module__}.{FixedArguments.__name__}"]
    return options
