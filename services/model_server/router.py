"""One address for several engines: each request goes to the engine of the model that it names."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx
from prometheus_client import CollectorRegistry, Counter, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from model_server.answer_log import AnswerLog, Question, is_text
from model_server.engine import Engine
from model_server.errors import error
from model_server.metrics import merge
from model_server.passing import CHAT, JSON, PATHS, OnAnswer, pass_on, read_model, refused
from model_server.traffic import Draws, Traffic
from tunebook_spec.errors import InputError

logger = logging.getLogger(__name__)

MAX_SHADOWS = 64
"""Shadow requests under way at once; those beyond are not asked, and counted."""


class Router:
    """Answers for the engines, by the names of their models and of the splits.

    Args:
        engines: by every name of their models.
        traffic: splits, shadows and what is logged.
        folder: that the log's path is relative to.
    """

    def __init__(self, engines: Mapping[str, Engine], traffic: Traffic, folder: Path) -> None:
        self.engines = dict(engines)
        self._traffic = traffic
        self._draws = Draws(traffic)
        self._log = AnswerLog(traffic.log, folder) if traffic.log else None
        self._log_fails = False
        self._shadows: set[asyncio.Task[None]] = set()
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "tunebook_requests",
            "Requests by the name that was asked for, the model that answered, and status.",
            ("asked", "model", "status"),
            registry=self._registry,
        )
        self._logged = Counter(
            "tunebook_logged_answers",
            "Answers by what became of them: logged, masked, dropped, failed to be written, or a shadow that"
            " was not asked.",
            ("model", "outcome"),
            registry=self._registry,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """What clients may ask for."""
        return (*self._traffic.split, *self.engines)

    @property
    def application(self) -> Starlette:
        """The server's own paths, and those of the protocol that engines answer."""
        own = {"/health": self._health, "/metrics": self._metrics, "/v1/models": self._models}
        routes = [Route(path, answer) for path, answer in own.items()]
        routes += [Route(path, self._complete, methods=["POST"]) for path in PATHS]
        return Starlette(routes=routes)

    async def close(self) -> None:
        """Shadows that are still asked are let go."""
        for task in self._shadows:
            task.cancel()
        await asyncio.gather(*self._shadows, return_exceptions=True)
        if self._log is not None:
            self._log.close()

    @property
    def _each(self) -> list[Engine]:
        return list({engine.name: engine for engine in self.engines.values()}.values())

    async def _health(self, _: Request) -> Response:
        ill = [engine.name for engine in self._each if not await engine.is_healthy()]
        return error(503, f"not ready: {', '.join(ill)}") if ill else Response()

    async def _metrics(self, _: Request) -> Response:
        told = [(await engine.http.get("/metrics")).text for engine in self._each]
        return PlainTextResponse(merge(told) + generate_latest(self._registry).decode())

    async def _models(self, _: Request) -> Response:
        told = [(await engine.http.get("/v1/models")).json() for engine in self._each]
        cards = [card for each in told for card in each["data"]]
        roots = {card["id"]: card.get("root") for card in cards}
        for name, weights in self._traffic.split.items():
            # As an engine's does, it changes with what is behind the name.
            root = json.dumps([(model, weight, roots.get(model)) for model, weight in weights.items()])
            cards.append({"id": name, "object": "model", "created": 0, "owned_by": "tunebook", "root": root})
        return JSONResponse({"object": "list", "data": cards})

    async def _complete(self, request: Request) -> Response:
        """Pass the request on to the engine that it is for, and its answer back as it comes."""
        try:
            asked, name = await read_model(request, self.names)
        except InputError as problem:
            return refused(problem)
        user = asked.get("user")
        model = self._draws.model(name, user if isinstance(user, str) else None)
        on_answer = self._on_answer(request.url.path, name, model, asked)
        body = await request.body()
        sent = body if model == name else json.dumps({**asked, "model": model}).encode()
        return await pass_on(request, sent, nullcontext(self.engines[model]), on_answer)

    def _on_answer(self, path: str, name: str, model: str, asked: Mapping[str, Any]) -> OnAnswer:
        """What is done with an answer once it is there; shadows are asked from now on."""
        settings = self._traffic.log
        question = None
        if settings and path == CHAT and is_text(asked) and self._draws.is_in(settings.share):
            question = Question(uuid.uuid4().hex, name, asked["messages"], time.monotonic())
            for shadow in self._draws.shadows(name, model):
                self._ask_shadow(question, shadow, asked)

        def on_answer(status: int, body: bytes | None) -> None:
            self._requests.labels(name, model, status).inc()
            if question is not None and body is not None:
                self._keep(question, model, is_shadow=False, status=status, body=body)

        return on_answer

    def _keep(self, question: Question, model: str, *, is_shadow: bool, status: int, body: bytes) -> None:
        """Log an answer; that it cannot be written is no trouble of the client's."""
        assert self._log is not None
        try:
            outcome = self._log.add(question, model, is_shadow=is_shadow, status=status, body=body)
        except OSError as problem:
            outcome = "failed"
            if not self._log_fails:
                logger.error("the log %s cannot be written: %s", self._log.path, problem)
            self._log_fails = True
        else:
            self._log_fails = False
        self._logged.labels(model, outcome).inc()

    def _ask_shadow(self, question: Question, model: str, asked: Mapping[str, Any]) -> None:
        """In the background: no client waits for it."""
        if len(self._shadows) >= MAX_SHADOWS:
            self._logged.labels(model, "not asked").inc()
            return
        left_out = ("stream", "stream_options")
        body = {key: value for key, value in asked.items() if key not in left_out} | {"model": model}
        task = asyncio.create_task(self._shadow(question, model, json.dumps(body).encode()))
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)

    async def _shadow(self, question: Question, model: str, body: bytes) -> None:
        try:
            answer = await self.engines[model].http.post(CHAT, content=body, headers=JSON)
            status, content = answer.status_code, answer.content
        except httpx.TransportError as problem:
            status, content = 503, type(problem).__name__.encode()
        self._keep(question, model, is_shadow=True, status=status, body=content)


def by_name(engines: Sequence[Engine]) -> dict[str, Engine]:
    return {name: engine for engine in engines for name in engine.names}
