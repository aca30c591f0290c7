"""One engine on a host of a Ray cluster, which answers as vLLM's own server does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import ray
from ray.serve.llm import LLMConfig
from ray.serve.llm.deployment import LLMServer

from model_server.asgi import ask
from model_server.served_model import find_models
from tunebook_run.settings import Settings


class Replica(LLMServer):  # type: ignore[misc]
    """Serves the model of a run, which it finds under the storage URL.

    `LLMServer` places the engine, looks after it and tells Ray's metrics of it. It is asked through vLLM's
    own HTTP application: only there are errors, names of fields and refusals those of the protocol.

    Args:
        llm_config: what the cluster has to know; the rest is found out on the host.
        run: as `medical@3`.
        storage_url: where runs live.
    """

    async def __init__(self, llm_config: LLMConfig, *, run: str, storage_url: str) -> None:  # type: ignore[misc]
        folder, arguments = await _read(run, storage_url, on_gpu=llm_config.accelerator_config.kind == "gpu")
        known = llm_config.model_dump(exclude_unset=True)
        source = {"model_id": llm_config.model_id, "model_source": folder}
        config = LLMConfig(**known | {"model_loading_config": source, "engine_kwargs": arguments})
        config.get_or_create_callback().ctx.run_init_node = False  # nothing is left to download
        await super().__init__(config)
        self._application = await self.engine.build_asgi_app()

    async def answer(self, method: str, path: str, body: bytes) -> AsyncIterator[tuple[int, str] | bytes]:
        """Status and content type, and then the body as it comes."""
        async for each in ask(self._application, method, path, body):
            yield each


async def _read(run: str, storage_url: str, *, on_gpu: bool) -> tuple[str, dict[str, Any]]:
    """The model's folder on this host, and the arguments of vLLM."""
    if on_gpu:  # which Ray shows only to what asks for some of it
        return tuple(await ray.remote(_model).options(num_cpus=0, num_gpus=0.001).remote(run, storage_url))
    return await asyncio.to_thread(_model, run, storage_url)


def _model(run: str, storage_url: str) -> tuple[str, dict[str, Any]]:
    settings = Settings.read().model_copy(update={"storage_url": storage_url})
    (model,) = find_models([run], settings)
    return str(model.folder), model.answer_arguments()
