"""Serves base models by name and any run by `scenario@number`, each started when it is first asked."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response, StreamingResponse

from model_server.engines import Command, Engines
from model_server.server import arguments
from tunebook_model.precision import compute_dtype
from tunebook_model.resolve import resolve
from tunebook_run.record import find_run
from tunebook_run.settings import Settings
from tunebook_run.store import Store
from tunebook_spec import Spec
from tunebook_spec.errors import InputError, TunebookError

logger = logging.getLogger(__name__)

TEMPERATURE = 1.0
"""Of the protocol, where a request says nothing."""


class Models:
    """From a name to what vLLM is told."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = Store(settings.storage_url, settings.cache_dir)
        self._precision = compute_dtype()

    def command(self, name: str) -> Command:
        """The server's arguments for a model.

        Raises:
            InputError: there is no such model.
        """
        folder, kwargs, temperature = self._base(name) if "@" not in name else self._run(name)
        return partial(_arguments, folder, name, self._precision.dtype, kwargs, temperature)

    def _base(self, name: str) -> tuple[Path, dict[str, str | bool], float]:
        reference = self._settings.gateway.base_model(name)
        if reference is None:
            raise InputError(f"no base model {name!r}")
        token = self._settings.hf_token
        ready = resolve(
            reference,
            assets_dir=self._settings.assets_dir,
            cache_dir=self._settings.cache_dir,
            hub_online=self._settings.hub_online,
            hf_token=token.get_secret_value() if token else None,
        )
        return ready.path, reference.chat_template_kwargs, TEMPERATURE

    def _run(self, name: str) -> tuple[Path, dict[str, str | bool], float]:
        record = find_run(self._store, name)
        spec = Spec.model_validate(record.spec)
        folder = self._store.download(record.stage("merge").key) / "model"
        return folder, spec.base_model.chat_template_kwargs, spec.evaluation.decoding.temperature


def _arguments(
    folder: Path, name: str, dtype: str, kwargs: dict[str, str | bool], temperature: float, port: int
) -> list[str]:
    return arguments(
        folder,
        names=[name],
        dtype=dtype,  # type: ignore[arg-type]
        host="127.0.0.1",
        port=port,
        temperature=temperature,
        chat_template_kwargs=kwargs,
    )


def make_app(settings: Settings) -> FastAPI:
    models, engines = Models(settings), Engines(settings.gateway.max_engines)
    client = httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=None), trust_env=False)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await client.aclose()
        engines.stop()

    app = FastAPI(title="Tunebook model server", lifespan=lifespan, docs_url=None, redoc_url=None)

    @app.get("/health")
    async def health() -> None:
        """Whether requests are taken; models may have to be started first."""

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await request.json()
        try:
            command = await run_in_threadpool(models.command, str(body.get("model")))
            async with AsyncExitStack() as stack:
                engine = await stack.enter_async_context(engines.use(str(body["model"]), command))
                sent = client.build_request("POST", f"{engine.base_url}chat/completions", json=body)
                answer = await client.send(sent, stream=True)
                stack.push_async_callback(answer.aclose)
                held = stack.pop_all()
        except InputError as error:
            return _error(404, str(error))
        except (TunebookError, httpx.HTTPError) as error:
            logger.error("%s", error)
            return _error(503, f"the model could not be asked: {type(error).__name__}")
        return StreamingResponse(
            _whole(answer, held), answer.status_code, media_type=answer.headers.get("Content-Type")
        )

    return app


async def _whole(answer: httpx.Response, held: AsyncExitStack) -> AsyncIterator[bytes]:
    async with held:
        async for part in answer.aiter_bytes():
            yield part


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": "error", "param": None, "code": None}}, status)
