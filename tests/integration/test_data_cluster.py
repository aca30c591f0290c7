"""A data set that a Ray cluster of two hosts makes is the one that a host makes alone, its calls included."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.hosts import run, two_hosts
from tests.integration.test_cluster import needs_namespaces

REPOSITORY = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def told(tiny_llama: Path) -> Any:
    with two_hosts() as cluster:
        folder, out = cluster.head.folder / "project", cluster.head.folder / "told.json"
        shutil.copytree(tiny_llama, folder / "model")  # where the second host cannot see it
        path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
        module = ("-m", "tests.integration.prepared_twice")
        arguments = (*module, str(folder), cluster.ray_address, str(out))
        status = run(cluster.head, sys.executable, *arguments, timeout_s=1000, PYTHONPATH=path)
        assert status == 0, cluster.head.logs()
        return json.loads(out.read_text())


@needs_namespaces
@pytest.mark.parametrize("writer", ["augment", "distill"])
def test_two_hosts_make_the_bytes_that_one_makes_and_no_call_twice(told: Any, writer: str) -> None:
    alone, together = told[writer]
    assert together == alone
    assert len(alone["files"]) > 8
    assert len(alone["calls"]) == 100
    assert set(together["calls"].values()) == {1}
    assert alone["result"][writer]["kept"] == (200 if writer == "augment" else 100)


@needs_namespaces
def test_the_row_that_ends_a_run_is_told_in_the_same_words(told: Any) -> None:
    alone, together = told["failure"]
    assert alone == together
    assert "more than data.checks.max_tokens 60" in alone


@needs_namespaces
def test_both_hosts_do_a_part(told: Any) -> None:
    assert len(told["tasks"]) == 2
    assert min(told["tasks"].values()) >= 5
