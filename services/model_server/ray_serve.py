"""Serves tuned models of runs on a Ray cluster: a Ray Serve application, with replicas of each model."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.llm import LLMConfig, build_llm_deployment

from model_server.engine import DRAIN_S
from model_server.ray_front import Front
from model_server.ray_replica import Replica
from model_server.served_model import find_runs
from tunebook_inference.vllm_engine import engine_environment
from tunebook_run import log
from tunebook_run.ray_cluster import connect
from tunebook_run.room import share_out
from tunebook_run.settings import Settings
from tunebook_run.store import Store
from tunebook_spec.errors import InputError, StageError

logger = logging.getLogger(__name__)

APPLICATION = "tunebook"
MAX_REQUESTS = 100_000
"""Under way at one replica at once; vLLM has a queue of its own."""
WATCH_S = 1.0
_DELETE_S = 60
"""How long the application may take to end after its requests."""

LIFE = {
    "graceful_shutdown_timeout_s": DRAIN_S,
    "graceful_shutdown_wait_loop_s": 0.5,
    "health_check_period_s": 2,
    "max_ongoing_requests": MAX_REQUESTS,
}


def serve_on_cluster(
    names: Sequence[str], settings: Settings, address: str, *, host: str, port: int, num_replicas: int
) -> None:
    """Serve runs by `medical`, `medical@latest` or `medical@3`, until told to stop.

    Args:
        names: of the runs.
        settings: of this machine.
        address: of the cluster.
        host: address that hosts of the cluster listen on.
        port: likewise.
        num_replicas: of each model.

    Raises:
        InputError: there is no such run, it has no model, or the cluster has no room for it.
        StageError: there is no such cluster, or a replica did not start.
    """
    log.configure(settings.log, settings.log_level)  # `ray.serve.llm` has set up another
    store = Store(settings.storage_url, settings.cache_dir)
    runs = find_runs(store, names)
    with _connected(address):
        _listen(host, port)
        hosts = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        resources = share_out(hosts, len(runs) * num_replicas, settings.cpus_per_worker)
        replicas = {}
        for record, its_names in runs:
            replicas[its_names[0]] = build_llm_deployment(
                _llm_config(its_names[0], resources, num_replicas),
                deployment_cls=Replica,
                bind_kwargs={"run": record.name, "storage_url": str(store.local_root or store.url)},
            )
        known = {name: its_names[0] for _, its_names in runs for name in its_names}
        front = serve.deployment(
            Front, num_replicas=num_replicas, ray_actor_options={"num_cpus": 0}, **LIFE
        ).bind(replicas, known)
        listed = ", ".join(known)
        told = "serving %s on the Ray cluster: %d of each, with %s"
        logger.info(told, listed, num_replicas, ", ".join(f"{num} {of}" for of, num in resources.items()))
        try:
            serve.run(front, name=APPLICATION, logging_config={"enable_access_log": False})
            logger.info("ready: %s at http://%s:%d/v1 on %s", listed, host, port, _hosts())
            _watch()
        except KeyboardInterrupt:
            logger.info("told to stop: what is under way is finished first")
            _take_down()
        except RuntimeError as problem:
            _take_down()
            raise StageError(str(problem)) from None


@contextmanager
def _connected(address: str) -> Iterator[None]:
    connect(address, "serve on this machine alone")
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        ray.shutdown()


def _listen(host: str, port: int) -> None:
    """Have the cluster's hosts listen; where they do already, that cannot be changed."""
    running = _get_global_client(raise_if_no_controller_running=False)
    if running is None:
        serve.start(http_options={"host": host, "port": port})
        return
    there = running.http_config
    if (there.host, there.port) != (host, port):
        raise InputError(
            f"Ray Serve of this cluster listens on {there.host}, port {there.port}, and not on {host},"
            f" port {port}: give --host {there.host} --port {there.port}, or end it by `serve shutdown`"
        )


def _llm_config(name: str, resources: dict[str, int], num_replicas: int) -> Any:
    environment = engine_environment(on_gpu="GPU" in resources)
    if cores := resources.get("CPU"):
        # Replicas of one host would be bound to the same cores.
        environment |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(cores)}
    return LLMConfig(
        model_loading_config={"model_id": name},
        placement_group_config={"bundles": [resources]},
        deployment_config={"num_replicas": num_replicas, "ray_actor_options": {"num_cpus": 0}, **LIFE},
        runtime_env={"env_vars": environment},
    )


def _hosts() -> str:
    """Those that answer, with the port of their metrics."""
    proxies = serve.status().proxies
    found = (
        f"{node['NodeManagerAddress']} (metrics: port {node['MetricsExportPort']})"
        for node in ray.nodes()
        if node["NodeID"] in proxies
    )
    return ", ".join(found)


def _watch() -> None:
    """Tell how the application fares, for as long as it is ours."""
    ours = serve.status().applications[APPLICATION]
    before = ours.status
    while (now := serve.status().applications.get(APPLICATION)) is not None:
        if now.last_deployed_time_s != ours.last_deployed_time_s:
            logger.warning("another command serves in its place")
            return
        if now.status != before:
            logger.warning("%s: %s", now.status.value, now.message or "all replicas are there")
            before = now.status
        time.sleep(WATCH_S)
    logger.warning("it was taken down by another")


def _take_down() -> None:
    serve.delete(APPLICATION, _blocking=False)
    deadline = time.monotonic() + DRAIN_S + _DELETE_S
    while APPLICATION in serve.status().applications and time.monotonic() < deadline:
        time.sleep(0.2)
    if not serve.status().applications:
        serve.shutdown()
