"""Serves base models by name and any run by `scenario@number`, each started when it is first asked."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from model_server.engine import Engine, vllm_engine
from model_server.errors import error
from model_server.passing import pass_on, read_model, refused
from model_server.pool import Pool
from model_server.served_model import GPU_SHARE, find_model
from tunebook_run.settings import Settings
from tunebook_spec.errors import InputError, TunebookError


def make_app(settings: Settings) -> Starlette:
    """A server whose engines end with it."""
    most = settings.gateway.max_engines
    pool, numbers = Pool(most), count()
    folder = tempfile.TemporaryDirectory(prefix="tunebook-")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        with folder:
            yield
            await pool.stop()

    async def health(_: Request) -> Response:
        """Whether requests are taken; models may have to be started first."""
        return Response()

    async def chat(request: Request) -> Response:
        try:
            _, name = await read_model(request)
        except InputError as problem:
            return refused(problem)
        try:
            model = await run_in_threadpool(find_model, name, settings)
        except InputError as problem:
            return error(404, str(problem), "model")
        except TunebookError as problem:
            return error(503, str(problem))

        def make() -> Engine:
            socket = Path(folder.name) / f"{next(numbers)}.sock"
            options = model.arguments("--uds", str(socket), gpu_share=GPU_SHARE / most)
            return vllm_engine(model.names, socket, options)

        return await pass_on(request, await request.body(), pool.use(name, make))

    routes = [Route("/health", health), Route("/v1/chat/completions", chat, methods=["POST"])]
    return Starlette(routes=routes, lifespan=lifespan)
