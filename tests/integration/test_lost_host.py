"""A host that is lost while a data set is made: what is left finishes it. Run by hand: `-m soak`."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.hosts import Cluster, hosts_of_a_cluster, run
from tests.integration.test_cluster import REPOSITORY, needs_hosts

pytestmark = [*needs_hosts, pytest.mark.soak]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with hosts_of_a_cluster() as cluster:
        yield cluster


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
