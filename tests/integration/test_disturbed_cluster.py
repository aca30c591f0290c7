"""The ticket scenario on three hosts, undisturbed and disturbed, to the same verdict. By hand: `-m soak`."""

from __future__ import annotations

import json
import logging
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.integration.hosts import (
    REFUSES,
    Cluster,
    end,
    hosts_of_a_cluster,
    join,
    lose,
    start_head,
    switch,
    wait,
)
from tests.integration.test_cluster import REPOSITORY, STORE, losses_of, needs_hosts, start

pytestmark = [*needs_hosts, pytest.mark.soak]

logger = logging.getLogger(__name__)

ENDED = (0, 3, 4)
"""With a verdict."""
TICKETS = REPOSITORY / "specs" / "ticket_extraction.yaml"
SAVE = f"""{STORE}
for key in store.list_files("ticket_extraction/stages"):
    target = Path({{target!r}}) / key
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(store.read(key))
"""
SEED = f"""{STORE}
made = Path({{target!r}})
of_training = ("train", "merge", "answer-tuned", "evaluate", "decide")
for stage in (made / "ticket_extraction/stages").iterdir():
    if stage.is_dir() and not stage.name.startswith(of_training):
        for path in sorted(stage.rglob("*"), key=lambda path: path.name == "artifact.json"):
            if path.is_file():
                store.put(path, str(path.relative_to(made)))
"""
METRICS = f"""{STORE}
for key in store.list("ticket_extraction/stages"):
    if "/train-" in key and store.exists(f"{{key}}/metrics.jsonl"):
        print(store.read(f"{{key}}/metrics.jsonl").decode(), end="")
"""
VERDICT = f"""{STORE}
import json
runs = [key for key in store.list("ticket_extraction") if key.rpartition("/")[2].isdecimal()]
newest = max(runs, key=lambda key: int(key.rpartition("/")[2]))
print(json.dumps(json.loads(store.read(f"{{newest}}/run.json"))["status"]))
"""


@dataclass(frozen=True)
class Undisturbed:
    made: Path
    """Every stage, by its key."""
    verdict: str
    num_steps: int
    validation_loss: float
    """Of the last weights, over all validation rows; a single step's is of a few rows alone."""


def validation_loss(metrics: str) -> float:
    found = [
        each["validation_loss"] for each in map(json.loads, metrics.splitlines()) if "validation_loss" in each
    ]
    return float(found[-1])


def verdict(cluster: Cluster) -> str:
    return str(json.loads(cluster.shell(VERDICT)))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    made = tmp_path_factory.mktemp("made")
    with hosts_of_a_cluster(num_workers=2) as cluster:
        begun = time.monotonic()
        status = wait(start(cluster, TICKETS, "cluster-test"), 1800)
        logger.info("undisturbed: status %d after %.0f s", status, time.monotonic() - begun)
        assert status in ENDED, cluster.head.logs()
        cluster.shell(SAVE.format(target=str(made)))
        metrics = cluster.shell(METRICS)
        return Undisturbed(made, verdict(cluster), len(losses_of(metrics)), validation_loss(metrics))


@pytest.fixture
def cluster(undisturbed: Undisturbed) -> Iterator[Cluster]:
    """What needs no training is there already."""
    with hosts_of_a_cluster(num_workers=2) as cluster:
        cluster.shell(SEED.format(target=str(undisturbed.made)))
        yield cluster


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


def lose_the_head(cluster: Cluster) -> None:
    """Ray on the head; what is kept, in S3, is not lost with it."""
    inside = subprocess.run(["ip", "netns", "pids", cluster.head.name], capture_output=True, text=True)
    for pid in map(int, inside.stdout.split()):
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if any(part in " ".join(process.cmdline()) for part in ("gcs_server", "raylet", "/bin/ray ")):
                process.kill()


def restart(cluster: Cluster) -> Iterator[None]:
    """Ray on all hosts, as what looks after them would."""
    begun = [start_head(cluster.head), *(join(cluster, worker) for worker in cluster.workers)]
    yield
    for process in begun:
        end(process)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("disturb", [lose_a_worker, cut_a_link, overload_the_store, lose_the_head])
def test_a_disturbed_run_comes_to_the_same_verdict(
    undisturbed: Undisturbed, cluster: Cluster, disturb: Callable[[Cluster], None]
) -> None:
    settings = {"TUNEBOOK_MIN_WORKERS": "1"}
    process = start(cluster, TICKETS, "cluster-test", **settings)
    deadline = time.monotonic() + 600
    while len(losses_of(cluster.shell(METRICS))) < 3:
        assert process.poll() is None, cluster.head.logs()
        assert time.monotonic() < deadline, cluster.head.logs()
    begun = time.monotonic()
    disturb(cluster)
    status = wait(process, 1200)
    took = time.monotonic() - begun
    logger.info("%s: status %d after %.0f s", disturb.__name__, status, took)
    if status not in ENDED:
        reasons = [line for line in cluster.head.logs().splitlines() if line.startswith("error: ")]
        assert reasons, cluster.head.logs()
        logger.info("it stopped: %s", reasons[-1])
        restarted = restart(cluster) if disturb is lose_the_head else iter(())
        next(restarted, None)
        status = wait(start(cluster, TICKETS, "cluster-test", **settings), 1200)
        next(restarted, None)
        logger.info("once more: status %d", status)
    assert status in ENDED, cluster.head.logs()
    metrics = cluster.shell(METRICS)
    loss, same = validation_loss(metrics), undisturbed.validation_loss
    logger.info("verdict %s, validation loss %.4f, undisturbed %.4f", verdict(cluster), loss, same)
    assert verdict(cluster) == undisturbed.verdict
    assert len(losses_of(metrics)) == undisturbed.num_steps
    assert loss == pytest.approx(same, rel=5e-2)
