"""The way in to models on a Ray cluster: each request goes to a replica of the model that it names."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from model_server.errors import error
from model_server.passing import PATHS, read_model, refused
from tunebook_spec.errors import InputError

HEALTH_S = 10.0
"""How long a replica may take to say that it is well."""


class Front:
    """Answers for the replicas, under every name of their models.

    Args:
        replicas: of each model, by its own name.
        names: what clients may ask for, with the own name of the model that answers.
    """

    def __init__(self, replicas: Mapping[str, Any], names: Mapping[str, str]) -> None:
        self._replicas = {name: each.options(stream=True) for name, each in replicas.items()}
        self._names = names
        self._answers = {
            ("GET", "/health"): self._health,
            ("GET", "/v1/models"): self._models,
            **{("POST", path): self._complete for path in PATHS},
        }

    async def __call__(self, request: Request) -> Response:
        asked = request.method, request.url.path
        if asked not in self._answers:
            known = ", ".join(f"{method} {path}" for method, path in self._answers)
            return error(404, f"no {' '.join(asked)}; there are: {known}")
        return await self._answers[asked](request)

    async def _health(self, _: Request) -> Response:
        """Whether requests would be answered."""
        ill = [name for name in self._replicas if not await self._is_healthy(name)]
        return error(503, f"not ready: {', '.join(ill)}") if ill else Response()

    async def _models(self, _: Request) -> Response:
        cards = []
        for name, own in self._names.items():
            try:
                _, body = await _whole(self._replicas[own].answer.remote("GET", "/v1/models", b""))
            except (RayError, RayServeException) as problem:
                return _gone(own, problem)
            cards += [{**card, "id": name} for card in json.loads(body)["data"]]
        return JSONResponse({"object": "list", "data": cards})

    async def _complete(self, request: Request) -> Response:
        """Pass the request on to a replica, and its answer back as it comes."""
        try:
            asked, name = await read_model(request, self._names)
        except InputError as problem:
            return refused(problem)
        own = self._names[name]
        body = await request.body() if name == own else json.dumps({**asked, "model": own}).encode()
        answer = self._replicas[own].answer.remote("POST", request.url.path, body)
        try:
            status, kind = await anext(answer)
        except (RayError, RayServeException) as problem:
            return _gone(own, problem)
        except asyncio.CancelledError:
            answer.cancel()
            raise
        return StreamingResponse(_pieces(answer), status, media_type=kind)

    async def _is_healthy(self, name: str) -> bool:
        asked = self._replicas[name].answer.remote("GET", "/health", b"")
        try:
            (status, _), *_ = await asyncio.wait_for(_whole(asked), HEALTH_S)
        except (RayError, RayServeException, TimeoutError):
            asked.cancel()
            return False
        return bool(status == 200)


def _gone(name: str, problem: Exception) -> Response:
    return error(503, f"the replica of {name} that was asked does not answer: {type(problem).__name__}")


async def _whole(answer: Any) -> list[Any]:
    return [each async for each in answer]


async def _pieces(answer: Any) -> AsyncIterator[bytes]:
    try:
        async for piece in answer:
            yield piece
    except BaseException:  # the client hung up, and the replica is told so
        answer.cancel()
        raise
