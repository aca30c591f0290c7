"""`tunebook serve` on a Ray cluster: what is true of a server on this machine, and replicas that are lost.

By hand, for it takes minutes to start: `-m soak -o log_cli=true --log-cli-level=INFO` shows what a load took.
"""
# ruff: noqa: F401, F811  tests and fixtures of another module, collected here once more

from __future__ import annotations

import asyncio
import logging
import os
import signal
import statistics
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
import ray

from tests.integration.project import Project
from tests.integration.serving import MODEL, QUESTION, Server, is_ready, serving
from tests.integration.test_serve import (
    client,
    evaluated,
    is_unharmed,
    talk,
    test_64_requests_at_once_get_the_answers_that_were_evaluated,
    test_a_bad_request_is_refused_with_the_reason_and_the_server_lives,
    test_a_stream_says_the_same_piece_by_piece,
    test_an_answer_is_held_to_a_json_schema,
    test_it_answers_to_the_names_of_the_run,
    test_log_probabilities_are_told,
)
from tunebook_run.store import Store

pytestmark = pytest.mark.soak
logger = logging.getLogger(__name__)

REPLICA = "ServeReplica:tunebook:Replica"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the cluster's host."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def on_cluster(finished: Project, s3_url: str, cache: Path) -> Iterator[Project]:
    """The project, with its runs in an S3 store and the address of a Ray cluster of this machine alone."""
    store, runs = Store(s3_url, cache / "unused"), finished.folder / "runs"
    store.filesystem.create_dir("bucket")
    for path in (*runs.glob("tiny/1/**/*"), *runs.glob("tiny/stages/merge-*/**/*")):
        if path.is_file():
            store.put(path, str(path.relative_to(runs)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_metrics_report_interval_ms", "500")
        patch.setenv("TUNEBOOK_CACHE_DIR", str(cache))
        context = ray.init(
            address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False
        )
        address = context.address_info["gcs_address"]
        there = {"TUNEBOOK_RAY_ADDRESS": address, "TUNEBOOK_STORAGE_URL": s3_url}
        yield replace(finished, environment={**finished.environment, **there})
        ray.shutdown()


@pytest.fixture(scope="module")
def server(on_cluster: Project) -> Iterator[Server]:
    """One for all tests; the last of them stops it."""
    with serving(on_cluster) as server:
        yield server


def test_a_replica_brings_the_weights_from_the_store(server: Server, cache: Path) -> None:
    (weights,) = cache.rglob("model.safetensors")
    assert weights.parts[-3].startswith("merge-")


def metric(name: str, told: str = "") -> float:
    """Of all replicas, as Ray's metrics have it."""
    (host,) = ray.nodes()
    text = httpx.get(f"http://{host['NodeManagerAddress']}:{host['MetricsExportPort']}/metrics").text
    lines = [line for line in text.splitlines() if line.startswith(f"{name}{{") and told in line]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def test_a_client_that_hangs_up_is_forgotten_and_metrics_count_requests(
    server: Server, client: openai.OpenAI, evaluated: list[object]
) -> None:
    finished, by_length = "ray_vllm_request_success_total", 'finished_reason="length"'
    client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=1)
    await_metric(lambda: metric(finished, by_length) > 0)
    before = metric(finished, by_length)
    # So many answers at once take seconds to their end, and a hang-up is seen in milliseconds.
    streams = [talk(client, max_tokens=400, n=128, temperature=1.0) for _ in range(3)]
    for stream in streams:
        next(iter(stream))
        stream.close()
    long = {"max_tokens": 400, "n": 128, "temperature": 1.0, "ignore_eos": True}
    asked = {"model": MODEL, "messages": QUESTION, **long}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.base_url}/chat/completions", json=asked, timeout=0.5)
    await_metric(lambda: metric("ray_vllm_num_requests_running") == 0)
    assert metric(finished, by_length) == before, "none went on to its end"
    assert is_unharmed(client, evaluated)


def await_metric(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(1)


def test_a_server_that_is_told_to_stop_finishes_what_is_under_way(
    server: Server, client: openai.OpenAI
) -> None:
    stream = iter(talk(client))
    first = next(stream)
    server.process.send_signal(signal.SIGINT)
    chunks = [first, *stream]
    assert chunks[-1].choices[0].finish_reason == "length"
    assert server.process.wait(timeout=120) == 0
    assert server.process.stdout is not None
    output = server.process.stdout.read()
    starting, ready, stopping = (line.split(" ", 1)[1] for line in output.splitlines()[:3])
    assert starting == "serving tiny@latest, tiny@1 on the Ray cluster: 1 of each, with 1 CPU"
    assert ready.startswith("ready: tiny@latest, tiny@1 at http://127.0.0.1")
    assert stopping == "told to stop: what is under way is finished first"
    assert not is_ready(server.url)
    assert not replicas()
    assert not processes("VLLM"), "no engine is left"


def replicas() -> list[psutil.Process]:
    return processes(REPLICA)


def processes(name: str) -> list[psutil.Process]:
    """Of this test's cluster."""
    found = []
    for each in psutil.Process().children(recursive=True):
        try:
            if name in " ".join(each.cmdline()):
                found.append(each)
        except psutil.NoSuchProcess:
            pass
    return found


@dataclass
class Load:
    ends_at: float
    seconds: list[float] = field(default_factory=list)
    lost: list[openai.OpenAIError] = field(default_factory=list)
    """Asked again, and answered then."""


async def be_a_client(server: Server, load: Load) -> None:
    async with openai.AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
        while time.monotonic() < load.ends_at:
            started = time.monotonic()
            while not await is_answered(client, load):
                pass
            load.seconds.append(time.monotonic() - started)


async def is_answered(client: openai.AsyncOpenAI, load: Load) -> bool:
    asked: Any = {"max_tokens": 60, "extra_body": {"ignore_eos": True}}
    try:
        await client.chat.completions.create(model=MODEL, messages=QUESTION, **asked)
    except (openai.APIStatusError, openai.APIConnectionError) as problem:
        load.lost.append(problem)
        return False
    return True


NUM_CLIENTS = 16


SOAK_S = float(os.environ.get("SERVE_SOAK_S", "600"))
"""How long the load is kept up."""
KILL_S = 40.0
"""Likewise, where a replica is killed meanwhile."""
WARM_UP_S = SOAK_S / 4
"""Pools and caches fill meanwhile."""
MAX_GROWTH_MIB = 20.0
"""Of a process, a minute, after that."""


@pytest.fixture(scope="module")
def alone(finished: Project) -> Iterator[Server]:
    with serving(finished) as server:
        yield server


@pytest.fixture(scope="module")
def replicated(on_cluster: Project) -> Iterator[Server]:
    with serving(on_cluster, "--replicas", "2") as server:
        yield server


@pytest.mark.timeout(SOAK_S + 600)
@pytest.mark.parametrize("where", ["replicated", "alone"], ids=["cluster", "one process"])
def test_under_steady_load_there_is_no_error_and_memory_stays(
    request: pytest.FixtureRequest, where: str
) -> None:
    server = request.getfixturevalue(where)
    load = Load(time.monotonic() + SOAK_S)
    memory = asyncio.run(ask_for_a_while(server, load))
    ranked = statistics.quantiles(load.seconds, n=100)
    logger.info("%d answers, p50 %.3f s, p99 %.3f s", len(load.seconds), ranked[49], ranked[98])
    assert not load.lost
    growth = {}
    for name, seen in memory.items():
        warm = [each for each in seen if each[0] > WARM_UP_S]
        growth[name] = 60 * statistics.linear_regression(*zip(*warm, strict=True))[0]
        logger.info("%s: RSS %.0f to %.0f MiB, %+.1f a minute", name, seen[0][1], seen[-1][1], growth[name])
    assert all(each < MAX_GROWTH_MIB for each in growth.values()), growth


async def ask_for_a_while(server: Server, load: Load) -> dict[str, list[tuple[float, float]]]:
    """Seconds and MiB of each process below this one that is there from beginning to end."""
    started, seen = time.monotonic(), defaultdict(list)
    there = {f"{' '.join(each.cmdline())[:60]} {each.pid}": each for each in processes("")}
    async with asyncio.TaskGroup() as group:
        for _ in range(NUM_CLIENTS):
            group.create_task(be_a_client(server, load))
        while (now := time.monotonic()) < load.ends_at:
            for name, process in [*there.items()]:
                try:
                    seen[name].append((now - started, process.memory_info().rss / 2**20))
                except psutil.NoSuchProcess:  # Ray ends workers that are idle
                    del there[name], seen[name]
            await asyncio.sleep(2)
    return seen


@pytest.mark.timeout(900)
def test_a_replica_killed_under_load_loses_the_requests_on_it_and_comes_back(replicated: Server) -> None:
    before = replicas()
    assert len(before) == 2
    engine = before[0].children(recursive=True)
    assert engine
    load = Load(time.monotonic() + KILL_S)

    async def ask_and_kill() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(NUM_CLIENTS):
                group.create_task(be_a_client(replicated, load))
            await asyncio.sleep(KILL_S / 4)
            os.kill(before[0].pid, signal.SIGKILL)

    asyncio.run(ask_and_kill())
    told = "%d answers, %d requests lost and asked again: %s"
    logger.info(told, len(load.seconds), len(load.lost), {str(each) for each in load.lost})
    assert 1 <= len(load.lost) <= NUM_CLIENTS
    assert not psutil.wait_procs(engine, timeout=30)[1], "its engine has ended with it"
    started = time.monotonic()
    while num_running() < 2:
        assert time.monotonic() - started < 180, "it never came back"
        time.sleep(0.5)
    logger.info("another is there %.0f s after the load", time.monotonic() - started)
    assert len(replicas()) == 2
    assert is_ready(replicated.url)


def num_running() -> int:
    """Replicas that answer, as Ray Serve knows."""
    with warnings.catch_warnings(action="ignore"):  # of what its import uses
        from ray import serve

    of_model = serve.status().applications["tunebook"].deployments[f"Replica:{MODEL}"]
    return int(of_model.replica_states.get("RUNNING", 0))
