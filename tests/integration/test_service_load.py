"""A hundred clients at once, for a minute: no error, and no process that grows. By hand: `-m soak`.

`-o log_cli=true --log-cli-level=INFO` shows the figures.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import time
from collections import defaultdict
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import openai
import psutil
import pytest

from tests.integration.service import ALIAS, Service, chats, jsonl

pytestmark = pytest.mark.soak
logger = logging.getLogger(__name__)

Found = TypeVar("Found")

NUM_CLIENTS = 100
SECONDS = 60.0
WARM_UP_S = 20.0
"""Pools and caches fill meanwhile."""
MAX_GROWTH_MIB = 20.0
"""Of a process, a minute, after that."""
NO_LIMIT = {"TUNEBOOK_GATEWAY__REQUESTS_PER_MINUTE": "10000000"}
ROWS = jsonl(chats(2))
QUESTION = chats(1)[0]["messages"][:2]


@dataclass
class Load:
    ends_at: float
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """What each call took, by its name."""

    async def timed(self, name: str, call: Awaitable[Found]) -> Found:
        started = time.perf_counter()
        answer = await call
        self.seconds[name].append(time.perf_counter() - started)
        return answer

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.ends_at


def test_a_hundred_clients_get_no_error_and_no_process_grows(tmp_path: Path, talking_llama: Path) -> None:
    service = Service(tmp_path / "service", talking_llama, NO_LIMIT)
    with service.served() as key:
        with openai.OpenAI(base_url=service.base_url, api_key=key) as client:
            client.chat.completions.create(model=ALIAS, messages=QUESTION, max_tokens=1)  # starts its engine
        load = Load(time.monotonic() + SECONDS)
        memory = asyncio.run(ask_for_a_while(service, key, load))
    for name, taken in sorted(load.seconds.items()):
        ranked = statistics.quantiles(taken, n=100)
        logger.info("%s: %d calls, p50 %.3f s, p99 %.3f s", name, len(taken), ranked[49], ranked[98])
    assert set(load.seconds) == {"upload", "file", "create", "events", "list", "cancel", "chat", "delete"}
    assert min(map(len, load.seconds.values())) >= NUM_CLIENTS
    growth = {}
    for name, seen in memory.items():
        warm = [each for each in seen if each[0] > WARM_UP_S]
        slope, _ = statistics.linear_regression(*zip(*warm, strict=True))
        growth[name] = slope * 60
        logger.info("%s: RSS %.0f to %.0f MiB, %+.1f a minute", name, seen[0][1], seen[-1][1], growth[name])
    assert set(growth) == {"gateway", "worker", "model_server"}
    assert all(each < MAX_GROWTH_MIB for each in growth.values()), growth


async def ask_for_a_while(service: Service, key: str, load: Load) -> dict[str, list[tuple[float, float]]]:
    """Seconds and MiB of each part's process."""
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(watch(service, load))
        for _ in range(NUM_CLIENTS):
            group.create_task(be_a_client(service.base_url, key, load))
    return watching.result()


async def be_a_client(base_url: str, key: str, load: Load) -> None:
    """Raises what the service answers with an error: nothing is asked again."""
    async with openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=120) as client:
        jobs, files = client.fine_tuning.jobs, client.files
        while not load.is_over:
            file = await load.timed("upload", files.create(file=("rows.jsonl", ROWS), purpose="fine-tune"))
            assert (await load.timed("file", files.retrieve(file.id))).bytes == len(ROWS)
            job = await load.timed("create", jobs.create(model=ALIAS, training_file=file.id))
            events = await load.timed("events", jobs.list_events(job.id))
            assert events.data[-1].message.startswith("Created fine-tuning job")
            assert (await load.timed("cancel", jobs.cancel(job.id))).status == "cancelled"
            assert (await load.timed("list", jobs.list(limit=20))).has_more is not None
            answer = await load.timed(
                "chat",
                client.chat.completions.create(model=ALIAS, messages=QUESTION, temperature=0, max_tokens=4),
            )
            assert (answer.choices[0].message.content or "").startswith("Yes")
            assert (await load.timed("delete", files.delete(file.id))).deleted


async def watch(service: Service, load: Load) -> dict[str, list[tuple[float, float]]]:
    started = time.monotonic()
    parts: dict[str, psutil.Process] = {}
    for name in ("gateway", "worker", "model_server"):
        part = service.part(name)
        assert part is not None
        parts[name] = part
    seen: dict[str, list[tuple[float, float]]] = defaultdict(list)
    while not load.is_over:
        for name, part in parts.items():
            seen[name].append((time.monotonic() - started, part.memory_info().rss / 2**20))
        await asyncio.sleep(1)
    return dict(seen)
