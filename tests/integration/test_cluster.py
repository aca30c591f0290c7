"""The same spec on a Ray cluster of two hosts that share nothing but the storage URL."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.integration.hosts import Cluster, run, two_hosts
from tests.integration.project import Project, make_project

MEDICAL = Path(__file__).parents[2] / "specs" / "medical.yaml"
STORE = """
from pathlib import Path
from tunebook_run.settings import Settings
from tunebook_run.store import Store
store = Store(Settings.read().storage_url, Path("cache"))
"""
BUCKET = f"{STORE}store.filesystem.create_dir('bucket')\n"
# What needs no training is not made again, so that the test is about training.
SEED = f"""{BUCKET}
for stage in Path("made/tiny/stages").iterdir():
    if stage.is_dir() and not stage.name.startswith(("train", "merge", "answer-tuned", "evaluate", "decide")):
        for path in sorted(stage.rglob("*"), key=lambda path: path.name == "artifact.json"):
            if path.is_file():
                store.put(path, f"tiny/stages/{{stage.name}}/{{path.relative_to(stage)}}")
"""
READ = f"""{STORE}
import json
(key,) = [key for key in store.list("tiny/stages") if "/train-" in key and not key.endswith(".lease")]
for name in ("artifact.json", "metrics.jsonl"):
    print(json.dumps(store.read(f"{{key}}/{{name}}").decode()))
"""

needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and iproute2"
)


def run_spec(cluster: Cluster, spec: Path, profile: str, timeout_s: float = 600) -> None:
    """Run a spec on both hosts, one worker each; its gates must pass."""
    status = run(
        cluster.head,
        sys.executable,
        *("-m", "tunebook_cli", "run", str(spec), "--profile", profile),
        timeout_s=timeout_s,
        TUNEBOOK_RAY_ADDRESS=cluster.ray_address,
        TUNEBOOK_NUM_WORKERS="2",
        TUNEBOOK_CPUS_PER_WORKER="1",
    )
    assert status == 0, cluster.head.logs() + cluster.worker.logs()
    copied = list((cluster.worker.folder / "cache").rglob("train.tokens.arrow"))
    assert copied, "the second host took no part"


@needs_namespaces
def test_two_hosts_train_what_one_host_trains(finished: Project, talking_llama: Path) -> None:
    with two_hosts() as cluster:
        project = make_project(cluster.head.folder / "project", talking_llama)
        spec = project.folder / "specs" / "tiny.yaml"
        shutil.copytree(finished.folder / "runs", cluster.head.folder / "made", symlinks=True)
        cluster.shell(SEED)
        run_spec(cluster, spec, "local")
        together = [json.loads(line) for line in cluster.shell(READ).splitlines()]
        folder = finished.stage("train")
        alone = [(folder / name).read_text() for name in ("artifact.json", "metrics.jsonl")]
        artifact, expected = json.loads(together[0]), json.loads(alone[0])
        assert artifact["result"]["num_workers"] == 2
        assert artifact["digest"] == expected["digest"]
        losses, same = losses_of(together[1]), losses_of(alone[1])
        assert len(losses) == len(same) > 10
        if artifact["result"]["dtype"] == "float32":
            assert losses == pytest.approx(same, rel=1e-4)
        else:  # other packs round otherwise, and steps add that up
            assert losses[:10] == pytest.approx(same[:10], rel=1e-2)


def losses_of(metrics: str) -> list[float]:
    return [entry["loss"] for entry in map(json.loads, metrics.splitlines()) if "loss" in entry]


@needs_namespaces
@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_medical_spec_ends_in_a_verdict_on_two_hosts() -> None:
    with two_hosts() as cluster:
        cluster.shell(BUCKET)
        run_spec(cluster, MEDICAL, "cluster-test", timeout_s=3000)
