"""A judge behind vLLM's own chat server, as one asks it by the openai client."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from contender import compete
from openai import APIConnectionError, AsyncOpenAI, OpenAI


@contextmanager
def served(model: str, dtype: str) -> Iterator[str]:
    """A server of the model, and its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Memory for keys and values as we take: the default wants nearly all of the machine's to be free.
    memory = ("--kv-cache-memory-bytes", str(2 * 2**30), "--gpu-memory-utilization", "0.4")
    command = (sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model)
    options = ("--served-model-name", "judge", "--dtype", dtype, "--host", "127.0.0.1", "--port", str(port))
    started = [*command, *options, *memory, "--enforce-eager"]
    with subprocess.Popen(started, stdout=subprocess.DEVNULL, start_new_session=True) as server:
        try:
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            os.killpg(server.pid, signal.SIGKILL)  # it would take its time


def wait(url: str) -> None:
    """Until it has answered once."""
    client = OpenAI(base_url=url, api_key="none", max_retries=0)
    deadline = time.monotonic() + 180
    while True:
        try:
            client.chat.completions.create(
                model="judge", max_tokens=1, messages=[{"role": "user", "content": "Hello."}]
            )
            return
        except APIConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


async def judge_all(told: dict[str, Any], url: str, at_once: int) -> list[float | None]:
    turns = asyncio.Semaphore(at_once)
    form = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": told["schema"]}}
    async with AsyncOpenAI(base_url=url, api_key="none") as client:

        async def verdict(messages: list[Any]) -> float | None:
            async with turns:
                answer = await client.chat.completions.create(
                    model="judge", messages=messages, max_tokens=160, temperature=0, response_format=form
                )
            try:
                return float(json.loads(answer.choices[0].message.content or "")["score"])
            except ValueError:  # it came to no end
                return None

        return await asyncio.gather(*map(verdict, told["messages_in_json"]))


def work(folder: Path, *, url: str, at_once: int) -> dict[str, Any]:
    told = json.loads((folder / "judge.json").read_text())
    return {"scores": asyncio.run(judge_all(told, url, at_once))}


def main(at_once: int) -> None:
    told = json.loads((Path(sys.argv[1]) / "judge.json").read_text())
    with served(told["model"], told["dtype"]) as url:
        wait(url)
        packages = ("torch", "transformers", *packages_distributions()["vllm"])
        compete(partial(work, url=url, at_once=at_once), lambda made: made, *packages)
