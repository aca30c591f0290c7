"""A run submitted to a Ray cluster that has our libraries and not our code; artifacts in an S3 store."""

from __future__ import annotations

import json
import os
import shutil
import signal
import site
import subprocess
import tempfile
import time
import venv
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from ray.job_submission import JobSubmissionClient

from tests.integration.project import Project, kill, make_project
from tunebook_run.record import RunRecord, find_run
from tunebook_run.settings import Settings
from tunebook_run.store import Store

TOKEN = "0123456789abcdef0123456789abcdef"
SECRET = "hush-hush-hush"
PORTS = {"--port": "6397", "--dashboard-port": "8297"}
ADDRESS = "http://127.0.0.1:8297"
LONG = ("--profile", "local", "--set", "method.epochs=2000", "--until", "train")


@dataclass
class Head:
    """A head with one core; it can be killed and started anew."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        python = self.folder / "venv" / "bin" / "python"
        if not python.exists():
            venv.create(self.folder / "venv", symlinks=True)
            # A path in a .pth file brings libraries, and not what their folder links to: the packages here.
            (installed,) = site.getsitepackages()
            (site_packages,) = (self.folder / "venv").glob("lib/*/site-packages")
            (site_packages / "libraries.pth").write_text(installed)
        where = ("--head", "--node-ip-address", "127.0.0.1", "--dashboard-host", "127.0.0.1")
        ports = [part for option in PORTS.items() for part in option]
        quiet = ("--num-cpus", "1", "--disable-usage-stats", "--block", "--temp-dir", str(self.folder / "r"))
        environment = {
            "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.folder),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
            "TUNEBOOK_ASSETS_DIR": str(Settings.read().assets_dir),
            "VLLM_CACHE_ROOT": str(Path.home() / ".cache" / "vllm"),
            "OMP_NUM_THREADS": "1",
        }
        with (self.folder / "head.log").open("ab") as log:
            self.process = subprocess.Popen(
                [python, "-m", "ray.scripts.scripts", "start", *where, *ports, *quiet],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        await_(self.answers, 120)

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "head.log").read_text()
        try:
            return httpx.get(f"{ADDRESS}/api/authentication_mode").is_success
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """All at once, as a host does that loses its power."""
        in_venv = str(self.folder / "venv")
        for process in Path("/proc").glob("[0-9]*"):
            try:
                is_ours = in_venv.encode() in (process / "environ").read_bytes()
            except OSError:
                continue
            if is_ours:
                os.kill(int(process.name), signal.SIGKILL)
        assert self.process is not None
        self.process.wait()


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    # Ray puts sockets below, whose paths may have 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="tb"))
    head = Head(folder)
    try:
        head.start()
        yield head
    finally:
        head.kill()
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Submitted:
    """A project whose runs are submitted, and the store of a cluster."""

    project: Project
    store: Store

    def command(self, *arguments: str) -> tuple[str, ...]:
        return ("run", "tiny", *arguments, "--address", ADDRESS)

    def run(self, *arguments: str) -> tuple[int, str]:
        return self.project.run(*self.command(*arguments))

    def record(self) -> RunRecord:
        return find_run(self.store, "tiny")

    def trainings(self, *, besides: Collection[str] = ()) -> dict[str, list[dict[str, Any]]]:
        """What each training has measured so far, by its stage."""
        stages = [key for key in self.store.list("tiny/stages") if "/train-" in key and key not in besides]
        files = {key: f"{key}/metrics.jsonl" for key in stages if self.store.exists(f"{key}/metrics.jsonl")}
        return {key: [*map(json.loads, self.store.read(file).splitlines())] for key, file in files.items()}

    def jobs(self) -> dict[str, str]:
        """Status of each job, by its id."""
        details = JobSubmissionClient(ADDRESS, headers={"Authorization": f"Bearer {TOKEN}"}).list_jobs()
        return {str(each.submission_id): str(each.status) for each in details}


@pytest.fixture(scope="module")
def submitted(
    head: Head,
    s3_url: str,
    finished: Project,
    talking_llama: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Submitted:
    """Stages of a run on this machine are in the store, so that the tests are about what is submitted."""
    folder = tmp_path_factory.mktemp("submitted")
    store = Store(s3_url, folder / "cache")
    store.filesystem.create_dir("bucket")
    stages = finished.folder / "runs" / "tiny" / "stages"
    for path in sorted(stages.rglob("*"), key=lambda path: path.name == "artifact.json"):
        if path.is_file() and path.suffix != ".lock":
            store.put(path, f"tiny/stages/{path.relative_to(stages)}")
    environment = {
        "TUNEBOOK_STORAGE_URL": s3_url,
        "TUNEBOOK_CPUS_PER_WORKER": "1",
        "TUNEBOOK_HF_TOKEN": SECRET,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_ADDRESS": "127.0.0.1:1",
        "HOME": str(folder),
    }
    project = make_project(folder / "a project", talking_llama)
    project.environment = environment
    return Submitted(project, store)


def num_losses(trainings: dict[str, list[dict[str, Any]]]) -> int:
    return sum("loss" in entry for entries in trainings.values() for entry in entries)


def await_(holds: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_log_verdict_and_exit_status_come_home_and_secrets_stay_unseen(
    head: Head, submitted: Submitted
) -> None:
    status, output = submitted.run("--profile", "local", "--set", "evaluation.gates.0.at_least=0.9")
    assert status == 4, output
    assert "evaluate         skipped: same inputs" in output
    assert output.splitlines()[-1].startswith("verdict: inconclusive")
    assert submitted.record().key in output
    files = [path for path in (head.folder / "r").glob("session_*/logs/**/*") if path.is_file()]
    logs = b"".join(path.read_bytes() for path in files).decode(errors="replace")
    told = httpx.get(f"{ADDRESS}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN}"}).text
    for shown in (logs, told):
        assert "tunebook_cli.submitted" in shown
        assert SECRET not in shown


@pytest.mark.soak
def test_a_job_is_left_alone_found_again_and_stopped(submitted: Submitted) -> None:
    before = submitted.trainings()
    status, output = submitted.run(*LONG, "--detach")
    assert status == 0, output
    (job,) = [job for job, state in submitted.jobs().items() if state in ("PENDING", "RUNNING")]
    assert f"submitted as job {job}" in output
    following = submitted.project.start(*submitted.command(*LONG))
    try:
        assert following.stdout is not None
        lines = iter(following.stdout.readline, "")
        assert f"this is job {job}" in next(lines)
        assert any("prepare          skipped: same inputs" in line for line in lines)
        await_(lambda: num_losses(submitted.trainings(besides=before)) > 3, 120)
        following.send_signal(signal.SIGINT)
        assert following.wait(20) == 130
        assert f"left job {job} running" in "".join(lines)
        following.stdout.close()
    finally:
        kill(following)
    assert submitted.jobs()[job] == "RUNNING"

    status, output = submitted.run(*LONG, "--cancel")
    assert (status, output) == (0, f"stopped job {job}; the same command goes on from what it left\n")
    assert submitted.jobs()[job] == "STOPPED"
    assert submitted.record().status == "interrupted"
    done = num_losses(submitted.trainings(besides=before))
    time.sleep(1.5)
    assert num_losses(submitted.trainings(besides=before)) == done
    assert not [key for key in submitted.store.list("tiny/stages") if key.endswith(".lease")]
    status, output = submitted.run(*LONG, "--cancel")
    assert status == 2
    assert "no job tunebook-tiny-" in output


@pytest.mark.parametrize(
    ("token", "reason"),
    [("f" * 32, "Invalid"), (None, "couldn't find an")],
    ids=["another token", "no token"],
)
def test_who_has_not_the_clusters_token_is_refused(
    submitted: Submitted, token: str | None, reason: str
) -> None:
    environment = {**submitted.project.environment, "RAY_AUTH_TOKEN": token}
    known = {name: value for name, value in environment.items() if value is not None}
    before = submitted.jobs()
    status, output = Project(submitted.project.folder, known).run(*submitted.command("--profile", "local"))
    assert status == 2
    assert f"{ADDRESS} refuses us" in output
    assert f"{reason} authentication token" in output
    assert "set RAY_AUTH_TOKEN to the cluster's token" in output
    assert "Traceback" not in output
    assert submitted.jobs() == before


@pytest.mark.soak
def test_what_a_lost_head_had_begun_the_next_submission_ends(head: Head, submitted: Submitted) -> None:
    arguments = ("--profile", "local", "--set", "method.epochs=40", "--until", "merge")
    before = submitted.trainings()
    following = submitted.project.start(*submitted.command(*arguments))
    try:
        await_(lambda: num_losses(submitted.trainings(besides=before)) > 20, 120)
        head.kill()
        head.start()
        output, _ = following.communicate(timeout=60)
    finally:
        kill(following)
    assert following.returncode == 1, output
    assert "was started anew and knows no job" in output
    status, output = submitted.run(*arguments)
    assert status == 0, output
    ((_, entries),) = submitted.trainings(besides=before).items()
    (resumed,) = [entry["resumed_at_step"] for entry in entries if "resumed_at_step" in entry]
    assert resumed >= 5
