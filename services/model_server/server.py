"""Serves tuned models of runs: vLLM behind the OpenAI protocol, with the chat template of training."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from model_server.served_model import GPU_SHARE, find_models
from tunebook_inference.vllm_engine import engine_environment
from tunebook_model.precision import compute_dtype
from tunebook_run.settings import Settings

logger = logging.getLogger(__name__)


def serve(
    names: Sequence[str], settings: Settings, *, host: str, port: int, traffic_file: Path | None = None
) -> None:
    """Serve runs by `medical`, `medical@latest` or `medical@3`; returns when it is told to stop, or never.

    One run is served by vLLM in the place of this process; several have an engine each, behind one address.

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
    models = find_models(names, settings)
    known = [name for model in models for name in model.names]
    listed = ", ".join(known)
    logger.info("serving %s at http://%s:%d/v1 in %s", listed, host, port, compute_dtype().reason)
    if len(models) == 1 and traffic_file is None:
        options = models[0].arguments("--host", host, "--port", str(port))
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *options]
        os.execve(sys.executable, command, {**os.environ, **engine_environment()})
    from model_server.engine import vllm_engine
    from model_server.process import run
    from model_server.traffic import Traffic, load_traffic

    traffic = load_traffic(traffic_file, known) if traffic_file else Traffic()
    log_folder = traffic_file.parent if traffic_file else Path()
    with tempfile.TemporaryDirectory(prefix="tunebook-") as folder:
        engines = []
        for number, model in enumerate(models):
            socket = Path(folder) / f"{number}.sock"
            options = model.arguments("--uds", str(socket), gpu_share=GPU_SHARE / len(models))
            engines.append(vllm_engine(model.names, socket, options))
        run(engines, traffic, log_folder, host=host, port=port)
