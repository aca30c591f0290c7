"""The OpenAI platform's protocol over our own cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI

from gateway import chat, errors, files, jobs, models
from gateway.doorway import Doorway
from gateway.errors import ErrorBody
from gateway.state import State
from tunebook_jobs.database import open_database
from tunebook_run.settings import Settings
from tunebook_run.store import Store

ANSWERS_S = 900.0
"""How long a model may think of an answer, or be started for it."""
KEPT_S = 2.0
"""How long a connection to the model server may be idle: less than after what that one closes it, 5 s."""
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": description}
    for status, description in (
        (400, "The request cannot be understood, or is not possible now."),
        (401, "No key, or none that is known."),
        (403, "Not allowed."),
        (404, "There is no such thing in the key's project."),
        (413, "Too large."),
        (429, "Too many requests."),
    )
}


def make_app(settings: Settings) -> FastAPI:
    """The service as an ASGI application; its state is in database and store alone."""
    store = Store(settings.storage_url, settings.cache_dir)
    model_server = httpx.AsyncClient(
        base_url=settings.gateway.model_server_url.rstrip("/") + "/",
        timeout=httpx.Timeout(ANSWERS_S, connect=5.0),
        limits=httpx.Limits(max_connections=None, keepalive_expiry=KEPT_S),
        trust_env=False,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await model_server.aclose()

    app = FastAPI(title="Tunebook", lifespan=lifespan, docs_url=None, redoc_url=None)
    database = open_database(settings, store)
    app.state.gateway = State(settings.gateway, store, database, model_server)
    app.add_middleware(Doorway, database=database, requests_per_minute=settings.gateway.requests_per_minute)
    errors.install(app)
    for router in (files.router, jobs.router, models.router, chat.router):
        app.include_router(router, prefix="/v1", responses=_ERRORS)
    app.openapi_schema = _without_422(app.openapi())
    return app


def _without_422(schema: dict[str, Any]) -> dict[str, Any]:
    """The published document, without what FastAPI says of bad requests: here they are 400."""
    for path in schema["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    for unused in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(unused, None)
    return schema
