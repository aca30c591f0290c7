"""Stands for vLLM: a process that answers as it is asked to, `NAME SOCKET` its arguments.

A chat's last message says how: `slow N` takes N seconds, `exit` ends the process, `half` ends it in the midst
of a stream; anything else is said back.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from tunebook_run.parent import end_with_parent

NAME = sys.argv[1]
under_way: set[int] = set()


async def chat(request: Request) -> Response:
    body = await request.json()
    said = body["messages"][-1]["content"]
    if said == "exit":
        os._exit(3)
    if "response_format" in body:
        return JSONResponse({"error": {"message": "no", "code": 400}}, 400)
    under_way.add(id(request))
    seconds = float(said.split()[1]) if said.startswith("slow") else 0
    if body.get("stream"):
        return StreamingResponse(pieces(request, said, seconds), media_type="text/event-stream")
    try:
        for _ in range(round(seconds / 0.02)):
            if await request.is_disconnected():
                break
            await asyncio.sleep(0.02)
    finally:
        under_way.discard(id(request))
    return JSONResponse(completion(body, said))


def completion(body: dict[str, Any], said: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": f"{NAME}: {said}"}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }


async def pieces(request: Request, said: str, seconds: float) -> AsyncIterator[str]:
    """Five of them, and the end."""
    try:
        for number in range(5):
            delta = {
                "index": 0,
                "delta": {"content": f"{number} "},
                "finish_reason": "stop" if number == 4 else None,
            }
            chunk = {
                "id": "1",
                "object": "chat.completion.chunk",
                "created": 0,
                "model": NAME,
                "choices": [delta],
            }
            yield f"data: {json.dumps(chunk)}\n\n"
            if said == "half" and number == 2:
                await asyncio.sleep(0.2)  # what was said is on its way
                os._exit(3)
            await asyncio.sleep(seconds / 5)
        yield "data: [DONE]\n\n"
    finally:
        under_way.discard(id(request))


async def health(_: Request) -> Response:
    return Response()


async def models(_: Request) -> Response:
    return JSONResponse(
        {
            "object": "list",
            "data": [
                {"id": NAME, "object": "model", "created": 0, "owned_by": "us", "root": f"/models/{NAME}"}
            ],
        }
    )


async def metrics(_: Request) -> Response:
    head = "# HELP vllm:running Under way.\n# TYPE vllm:running gauge\n"
    process = "# HELP process_memory Bytes.\n# TYPE process_memory gauge\nprocess_memory 1\n"
    return PlainTextResponse(f'{head}vllm:running{{model_name="{NAME}"}} {len(under_way)}\n{process}')


routes = [
    Route("/health", health),
    Route("/metrics", metrics),
    Route("/v1/models", models),
    Route("/v1/chat/completions", chat, methods=["POST"]),
]

if __name__ == "__main__":
    end_with_parent(group=True)
    uvicorn.run(Starlette(routes=routes), uds=sys.argv[2], log_level="error")
