"""Serves tuned models of runs: vLLM behind the OpenAI protocol, with the chat template of training."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from model_server.engine import DRAIN_S, Engine
from model_server.fixed_arguments import FixedArguments
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
        command = _command(runs[0], dtype.dtype, host=host, port=port)
        os.execve(sys.executable, command, {**os.environ, **engine_environment()})
    from model_server.process import run as serve_all
    from model_server.traffic import Traffic, load_traffic

    known = [name for run in runs for name in run.names]
    traffic = load_traffic(traffic_file, known) if traffic_file else Traffic()
    log_folder = traffic_file.parent if traffic_file else Path()
    with tempfile.TemporaryDirectory(prefix="tunebook-") as folder:
        engines = []
        for run in runs:
            socket = Path(folder) / f"{run.record.name}.sock"
            command = _command(run, dtype.dtype, host=host, port=port)
            command += ["--uds", str(socket), "--gpu-memory-utilization", str(GPU_SHARE / len(runs))]
            engines.append(Engine(run.names, socket, command, {**os.environ, **engine_environment()}))
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


def served_names(asked: str, record: RunRecord) -> tuple[str, ...]:
    is_latest = asked in (record.scenario, f"{record.scenario}@latest")
    return (f"{record.scenario}@latest", record.name) if is_latest else (record.name,)


def _command(run: ServedRun, dtype: Dtype, *, host: str, port: int) -> list[str]:
    """Serves this run; a request without a temperature is answered as it was evaluated."""
    spec = Spec.model_validate(run.record.spec)
    options = arguments(
        run.model,
        names=run.names,
        dtype=dtype,
        host=host,
        port=port,
        temperature=spec.evaluation.decoding.temperature,
        chat_template_kwargs=spec.base_model.chat_template_kwargs,
    )
    return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *options]


def arguments(
    model: Path,
    *,
    names: Sequence[str],
    dtype: Dtype,
    host: str,
    port: int,
    temperature: float,
    chat_template_kwargs: Mapping[str, str | bool],
) -> list[str]:
    """The arguments of vLLM's server for a model.

    Args:
        model: its folder.
        names: that it answers to.
        dtype: to compute in.
        host: address to listen on.
        port: port to listen on.
        temperature: of requests that ask for none.
        chat_template_kwargs: fixed arguments of its chat template.
    """
    options = [
        *("--model", str(model)),
        *("--host", host, "--port", str(port), "--dtype", dtype),
        *("--served-model-name", *names),
        *("--chat-template", str(model / "chat_template.jinja")),
        *("--generation-config", "vllm"),
        *("--override-generation-config", json.dumps({"temperature": temperature})),
        *("--max-num-seqs", str(MAX_NUM_SEQS)),
        *("--enable-prompt-tokens-details", "--disable-uvicorn-access-log"),
        *("--shutdown-timeout", str(DRAIN_S)),
    ]
    for argument, value in machine_arguments(model, dtype, MAX_NUM_SEQS).items():
        name = argument.replace("_", "-")
        if isinstance(value, bool):
            options.append(f"--{name}" if value else f"--no-{name}")
        else:
            options += [f"--{name}", str(value)]
    if chat_template_kwargs:
        options += ["--default-chat-template-kwargs", json.dumps(dict(chat_template_kwargs))]
        options += ["--middleware", f"{FixedArguments.__module__}.{FixedArguments.__name__}"]
    return options
