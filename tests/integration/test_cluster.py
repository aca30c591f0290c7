"""A Ray cluster of two hosts that share nothing but the storage URL does what one host does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.integration.hosts import REFUSES, Cluster, end, hosts_of_a_cluster, lose, run, wait
from tests.integration.project import Project, make_project
from tunebook_data.tokens import TokenTable
from tunebook_model.precision import compute_dtype
from tunebook_spec import load
from tunebook_train.checkpoint import Training
from tunebook_train.loop import Batches, Worker, run_steps
from tunebook_train.optimizer import make_optimizer, make_schedule
from tunebook_train.pack import plan_steps
from tunebook_train.step import load_model

REPOSITORY = Path(__file__).parents[2]
MEDICAL = REPOSITORY / "specs" / "medical.yaml"
STORE = """
from pathlib import Path
from tunebook_run.settings import Settings
from tunebook_run.store import Store
store = Store(Settings.read().storage_url, Path("cache"))
"""
# What needs no training is not made again, so that the test is about training.
SEED = f"""{STORE}
of_training = ("train", "merge", "answer-tuned", "judge", "evaluate", "decide")
for stage in Path("made/tiny/stages").iterdir():
    if stage.is_dir() and not stage.name.startswith(of_training):
        for path in sorted(stage.rglob("*"), key=lambda path: path.name == "artifact.json"):
            if path.is_file():
                store.put(path, f"tiny/stages/{{stage.name}}/{{path.relative_to(stage)}}")
"""
READ = f"""{STORE}
import json
for key in store.list("tiny/stages"):
    if "/train-" in key and not key.endswith(".lease"):
        files = ("artifact.json", "metrics.jsonl")
        print(json.dumps([store.read(f"{{key}}/{{name}}").decode() for name in files]))
"""
ADAPTER = "kind: lora, epochs: 12, learning_rate: 2.0e-2, r: 8, modules_to_save: [embed_tokens]"
METHODS = {
    "halves of an adapter": f"method={{{ADAPTER}, parallel_strategy: fsdp}}",
    "adapters": f"method={{{ADAPTER}}}",
    "halves of all weights": "method.parallel_strategy=fsdp",
}
"""What each host holds, by how the spec is changed."""

needs_hosts = [
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and iproute2"
    ),
    pytest.mark.timeout(1200),
]
pytestmark = needs_hosts


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with hosts_of_a_cluster() as cluster:
        yield cluster


def start(
    cluster: Cluster, spec: Path, profile: str, *arguments: str, **settings: str
) -> subprocess.Popen[str]:
    """`tunebook run` of a spec on all hosts, one worker each."""
    return cluster.head.popen(
        sys.executable,
        *("-m", "tunebook_cli", "run", str(spec), "--profile", profile, *arguments),
        TUNEBOOK_RAY_ADDRESS=cluster.ray_address,
        TUNEBOOK_NUM_WORKERS=str(1 + len(cluster.workers)),
        TUNEBOOK_CPUS_PER_WORKER="1",
        **settings,
    )


def run_spec(cluster: Cluster, spec: Path, profile: str, *arguments: str, timeout_s: float = 600) -> None:
    """Run a spec on both hosts; its gates must pass."""
    status = wait(start(cluster, spec, profile, *arguments), timeout_s)
    assert status == 0, cluster.head.logs() + cluster.worker.logs()
    copied = list((cluster.worker.folder / "cache").rglob("train.tokens.arrow"))
    assert copied, "the second host took no part"


FIRST, *OTHERS = METHODS


@pytest.mark.parametrize("held", [FIRST, *(pytest.param(each, marks=pytest.mark.soak) for each in OTHERS)])
def test_two_hosts_train_what_one_host_trains(
    cluster: Cluster, finished: Project, talking_llama: Path, held: str
) -> None:
    spec, before = with_data(cluster, finished, talking_llama), cluster.shell(READ).splitlines()
    run_spec(cluster, spec, "local", "--set", METHODS[held])
    (made,) = set(cluster.shell(READ).splitlines()) - {*before}
    artifact, metrics = json.loads(made)
    result = json.loads(artifact)["result"]
    assert result["num_workers"] == 2
    losses, same = losses_of(metrics), losses_alone(finished, METHODS[held])
    assert len(losses) == len(same) > 10
    # Other packs round otherwise, and steps add that up.
    num_steps, rel = (20, 1e-4) if result["dtype"] == "float32" else (10, 1e-2)
    assert losses[:num_steps] == pytest.approx(same[:num_steps], rel=rel)


def with_data(cluster: Cluster, finished: Project, model: Path) -> Path:
    """The spec of a project on the head; the data of one that is finished are in the cluster's store."""
    folder, made = cluster.head.folder / "project", cluster.head.folder / "made"
    if not made.exists():
        make_project(folder, model)
        shutil.copytree(finished.folder / "runs", made, symlinks=True)
        cluster.shell(SEED)
    return folder / "specs" / "tiny.yaml"


def losses_alone(finished: Project, change: str) -> list[float]:
    """Of a changed spec, trained by one worker without Ray on the data that are there."""
    spec = load(finished.folder / "specs" / "tiny.yaml", profile="local", overrides=[change]).spec
    method, data, worker = spec.method, finished.stage("prepare"), Worker(0, 1, torch.device("cpu"))
    train = TokenTable.open(data / "train.tokens.arrow")
    steps = plan_steps(
        train.lengths, tokens_per_step=method.tokens_per_step, epochs=method.epochs, seed=spec.seed
    )
    torch.manual_seed(spec.seed)
    dtype = getattr(torch, compute_dtype().dtype)
    loss = load_model(finished.folder / "models" / "tiny llama", dtype, worker.device, method)
    optimizer = make_optimizer(loss, method)
    training = Training(loss, optimizer, make_schedule(optimizer, method, len(steps)), digest="")
    batches = Batches(train, train, worker, method.max_pack_tokens)
    run_steps(training, steps, batches, method, seed=spec.seed, on_step=lambda: None)
    return [entry["loss"] for entry in training.metrics if "loss" in entry]


def losses_of(metrics: str) -> list[float]:
    return [entry["loss"] for entry in map(json.loads, metrics.splitlines()) if "loss" in entry]


@pytest.fixture(scope="module")
def told(cluster: Cluster, tiny_llama: Path) -> Any:
    """What prepares in-process and on the cluster have to tell of what they made."""
    folder, out = cluster.head.folder / "prepared", cluster.head.folder / "told.json"
    shutil.copytree(tiny_llama, folder / "model")  # where the second host cannot see it
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    module = ("-m", "tests.integration.prepared_twice")
    arguments = (*module, str(folder), cluster.ray_address, str(out))
    status = run(cluster.head, sys.executable, *arguments, timeout_s=1000, PYTHONPATH=path)
    assert status == 0, cluster.head.logs()
    return json.loads(out.read_text())


def test_two_hosts_make_the_bytes_that_one_makes_and_no_call_twice(told: Any) -> None:
    alone, together = told["prepared"]
    assert together == alone
    assert len(alone["files"]) > 8
    assert len(alone["calls"]) == 200
    assert set(together["calls"].values()) == {1}
    assert [alone["result"][writer]["kept"] for writer in ("augment", "distill")] == [200, 100]


def test_the_row_that_ends_a_run_is_told_in_the_same_words(told: Any) -> None:
    alone, together = told["failure"]
    assert alone == together
    assert "more than data.checks.max_tokens 60" in alone


def test_both_hosts_do_a_part(told: Any) -> None:
    assert len(told["tasks"]) == 2
    assert min(told["tasks"].values()) >= 5


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_medical_spec_ends_in_a_verdict_on_two_hosts(cluster: Cluster) -> None:
    run_spec(cluster, MEDICAL, "cluster-test", timeout_s=3000)


JOB = f"""{STORE}
import io, json, os, subprocess, sys, time
import openai
from tests.integration.service import chats, jsonl
command = [sys.executable, "-m", "tunebook_cli", "keys", "create", "--project", "acme"]
key = subprocess.run(command, capture_output=True, text=True).stdout.strip()
client = openai.OpenAI(base_url="http://127.0.0.1:8000/v1", api_key=key, max_retries=30)
file = client.files.create(file=("colours.jsonl", io.BytesIO(jsonl(chats(20)))), purpose="fine-tune")
job = client.fine_tuning.jobs.create(training_file=file.id, model="tiny-llama", seed=1)
while job.finished_at is None:
    time.sleep(0.5)
    job = client.fine_tuning.jobs.retrieve(job.id)
stages = store.list(f"{{job.id.replace('-', '_')}}/stages")
(train,) = [key for key in stages if "/train-" in key and "." not in key]
steps = [each.data["step"] for each in client.fine_tuning.jobs.list_events(job.id) if each.type == "metrics"]
result = json.loads(store.read(f"{{train}}/artifact.json"))["result"]
print(json.dumps([job.status, job.fine_tuned_model, steps[::-1], result["num_workers"]]))
"""


@pytest.mark.soak
def test_a_job_of_the_fine_tuning_protocol_is_trained_by_two_hosts(
    cluster: Cluster, talking_llama: Path
) -> None:
    bases = {"tiny-llama": {"kind": "folder", "path": str(talking_llama)}}
    settings = {
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
        "TUNEBOOK_GATEWAY__DATABASE_URL": f"sqlite:///{cluster.head.folder}/gateway.sqlite",
        "TUNEBOOK_GATEWAY__BASE_MODELS": json.dumps(bases),
        "TUNEBOOK_GATEWAY__ALIASES": "{}",
        "TUNEBOOK_GATEWAY__METHOD": "full",
        "TUNEBOOK_RAY_ADDRESS": cluster.ray_address,
        "TUNEBOOK_NUM_WORKERS": "2",
        "TUNEBOOK_CPUS_PER_WORKER": "1",
    }
    cluster.head.environment |= settings
    parts = [cluster.head.popen(sys.executable, "-m", name) for name in ("gateway", "worker")]
    try:
        status, model, steps, num_workers = json.loads(cluster.shell(JOB).splitlines()[-1])
    finally:
        for part in parts:
            end(part)
        for name in settings:
            del cluster.head.environment[name]
    assert (status, num_workers) == ("succeeded", 2)
    assert model.startswith("ft:tiny-llama:acme:")
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) > 10


LONG = "method.epochs=60"
METRICS = f"""{STORE}
for key in store.list("tiny/stages"):
    is_under_way = store.exists(f"{{key}}/metrics.jsonl") and not store.exists(f"{{key}}/artifact.json")
    if "/train-" in key and is_under_way:
        print(store.read(f"{{key}}/metrics.jsonl").decode(), end="")
"""


def steps_of(cluster: Cluster, num: int, process: subprocess.Popen[str]) -> None:
    """Wait for so many steps of a training under way."""
    deadline = time.monotonic() + 400
    while len(losses_of(cluster.shell(METRICS))) < num:
        assert process.poll() is None, cluster.head.logs()
        assert time.monotonic() < deadline, cluster.head.logs()


def test_an_overloaded_store_and_then_a_lost_host_cost_a_training_nothing(
    cluster: Cluster, finished: Project, talking_llama: Path
) -> None:
    """The last of this file: what it loses is not there any more."""
    spec, before = with_data(cluster, finished, talking_llama), cluster.shell(READ).splitlines()
    arguments = ("--set", LONG, "--until", "train")
    process = start(cluster, spec, "local", *arguments, TUNEBOOK_MIN_WORKERS="1")
    steps_of(cluster, 6, process)
    refuses = cluster.head.folder / REFUSES
    refuses.touch()
    time.sleep(5)
    refuses.unlink()
    steps_of(cluster, 12, process)
    lose(cluster.worker.name)
    assert wait(process, 900) == 0, cluster.head.logs()
    (made,) = set(cluster.shell(READ).splitlines()) - {*before}
    artifact, metrics = json.loads(made)
    entries = [json.loads(line) for line in metrics.splitlines()]
    resumed = [entry["resumed_at_step"] for entry in entries if "resumed_at_step" in entry]
    losses, same = losses_of(metrics), losses_alone(finished, LONG)
    assert resumed[-1] >= 10, "it went on from its newest checkpoint"
    assert json.loads(artifact)["result"]["num_workers"] == 1
    assert len(losses) == len(same)
    assert losses[: resumed[-1] + 10] == pytest.approx(same[: resumed[-1] + 10], rel=2e-2)
