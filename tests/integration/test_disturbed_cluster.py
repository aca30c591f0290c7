"""A run on three hosts that is disturbed comes to its verdict all the same. Run by hand: `-m soak`."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.hosts import REFUSES, Cluster, hosts_of_a_cluster, lose, switch, wait
from tests.integration.project import Project
from tests.integration.test_cluster import READ, losses_alone, losses_of, needs_hosts, start, with_data
from tests.integration.test_lost_host import LONG, METRICS

pytestmark = [*needs_hosts, pytest.mark.soak]

logger = logging.getLogger(__name__)


def lose_a_worker(cluster: Cluster) -> None:
    lose(cluster.workers[-1].name)


def cut_a_link(cluster: Cluster) -> None:
    switch(cluster.workers[-1].name, "down")
    time.sleep(20)
    switch(cluster.workers[-1].name, "up")


def overload_the_store(cluster: Cluster) -> None:
    refuses = cluster.head.folder / REFUSES
    refuses.touch()
    time.sleep(20)
    refuses.unlink()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with hosts_of_a_cluster(num_workers=2) as cluster:
        yield cluster


@pytest.mark.parametrize("disturb", [lose_a_worker, cut_a_link, overload_the_store])
def test_a_disturbed_run_comes_to_its_verdict(
    cluster: Cluster, finished: Project, talking_llama: Path, disturb: Callable[[Cluster], None]
) -> None:
    spec = with_data(cluster, finished, talking_llama)
    arguments, settings = ("--set", LONG), {"TUNEBOOK_MIN_WORKERS": "1"}
    process = start(cluster, spec, "local", *arguments, **settings)
    deadline = time.monotonic() + 400
    while len(losses_of(cluster.shell(METRICS))) < 12:
        assert process.poll() is None, cluster.head.logs()
        assert time.monotonic() < deadline, cluster.head.logs()
    begun = time.monotonic()
    disturb(cluster)
    status = wait(process, 600)
    logger.info("status %d, %.0f s after it began to be disturbed", status, time.monotonic() - begun)
    if status == 1:
        assert "stage train: " in cluster.head.logs()
        status = wait(start(cluster, spec, "local", *arguments, **settings), 600)
    assert status == 0, cluster.head.logs()
    ((_, metrics),) = [json.loads(line) for line in cluster.shell(READ).splitlines()]
    losses, same = losses_of(metrics), losses_alone(finished, LONG)
    assert len(losses) == len(same)
    assert losses[:12] == pytest.approx(same[:12], rel=2e-2)
    assert losses[-1] < losses[0] / 4
