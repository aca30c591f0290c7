"""A host that is lost in the middle of its work: what is left finishes it. Run by hand: `-m soak`."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.hosts import Cluster, hosts_of_a_cluster, lose, run, wait
from tests.integration.project import Project
from tests.integration.test_cluster import (
    READ,
    REPOSITORY,
    STORE,
    losses_alone,
    losses_of,
    needs_hosts,
    start,
    with_data,
)

pytestmark = [*needs_hosts, pytest.mark.soak]

logger = logging.getLogger(__name__)

LONG = "method.epochs=60"
METRICS = f"""{STORE}
for key in store.list("tiny/stages"):
    if "/train-" in key and store.exists(f"{{key}}/metrics.jsonl"):
        print(store.read(f"{{key}}/metrics.jsonl").decode(), end="")
"""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with hosts_of_a_cluster() as cluster:
        yield cluster


def test_a_training_goes_on_on_the_host_that_is_left(
    cluster: Cluster, finished: Project, talking_llama: Path
) -> None:
    spec = with_data(cluster, finished, talking_llama)
    arguments = ("--set", LONG, "--until", "train")
    process = start(cluster, spec, "local", *arguments, TUNEBOOK_MIN_WORKERS="1")
    deadline = time.monotonic() + 400
    while len(losses_of(cluster.shell(METRICS))) < 12:
        assert process.poll() is None, cluster.head.logs()
        assert time.monotonic() < deadline, cluster.head.logs()
    lose(cluster.worker.name)
    lost_at = time.monotonic()
    assert wait(process, 900) == 0, cluster.head.logs()
    ((artifact, metrics),) = [json.loads(line) for line in cluster.shell(READ).splitlines()]
    entries = [json.loads(line) for line in metrics.splitlines()]
    (resumed,) = [entry["resumed_at_step"] for entry in entries if "resumed_at_step" in entry]
    losses, same = losses_of(metrics), losses_alone(finished, LONG)
    logger.info("finished %.0f s after the loss, went on at step %d", time.monotonic() - lost_at, resumed)
    logger.info("last of %d losses %.5f, of one host %.5f", len(losses), losses[-1], same[-1])
    assert resumed >= 5
    assert json.loads(artifact)["result"]["num_workers"] == 1
    assert len(losses) == len(same)
    assert losses[: resumed + 10] == pytest.approx(same[: resumed + 10], rel=2e-2)


def test_a_data_set_is_the_same_where_a_host_is_lost(cluster: Cluster, tiny_llama: Path) -> None:
    folder, out = cluster.head.folder / "prepared", cluster.head.folder / "told.json"
    shutil.copytree(tiny_llama, folder / "model")
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    module = ("-m", "tests.integration.prepared_twice")
    arguments = (*module, str(folder), cluster.ray_address, str(out), cluster.worker.name)
    status = run(cluster.head, sys.executable, *arguments, timeout_s=1000, PYTHONPATH=path)
    assert status == 0, cluster.head.logs()
    alone, together = json.loads(out.read_text())
    assert together["files"] == alone["files"]
    assert together["calls"] == alone["calls"]
    assert set(together["calls"].values()) == {1}
