"""Hosts on one machine: network namespaces with links between, and nothing shared but what they carry.

Each host has a folder of its own, which no other can see; artifacts go through an S3 server on the first.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

PREFIX = "tunebook"
S3_PORT, RAY_PORT = 5055, 6399
S3_SERVER = str(Path(__file__).with_name("s3_server.py"))
REFUSES = "s3.refuses"
"""While a file of this name lies in the head's folder, the S3 server is overloaded."""
RAY = str(Path(sys.executable).with_name("ray"))
ONE_CPU = ("--num-cpus", "1", "--block", "--disable-usage-stats")
MAKE_BUCKET = """
from tunebook_run.settings import Settings
from tunebook_run.store import Store
Store(Settings.read().storage_url, Settings.read().cache_dir).filesystem.create_dir("bucket")
"""


@dataclass
class Host:
    name: str
    address: str
    folder: Path
    """This host's own; an empty mount hides each other host's."""
    hidden: list[Path]
    environment: dict[str, str] = field(default_factory=dict)

    def popen(self, *command: str, **extra: str) -> subprocess.Popen[str]:
        """Start a command on this host, as the leader of a process group."""
        hide = "".join(f'mount -t tmpfs none "{other}" && ' for other in self.hidden) + 'exec "$@"'
        inside = ["ip", "netns", "exec", self.name, "unshare", "-m", "sh", "-c", hide, "sh", *command]
        with (self.folder / f"{Path(command[0]).name}-{time.monotonic_ns()}.log").open("w") as log:
            return subprocess.Popen(
                inside,
                env={**os.environ, **self.environment, **extra},
                cwd=self.folder,
                start_new_session=True,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def logs(self) -> str:
        return "\n".join(f"== {log.name}\n{log.read_text()}" for log in sorted(self.folder.glob("*.log")))


@dataclass(frozen=True)
class Cluster:
    head: Host
    workers: list[Host]
    storage_url: str
    ray_address: str

    @property
    def worker(self) -> Host:
        """The first."""
        return self.workers[0]

    def shell(self, code: str) -> str:
        """What Python code prints on the head."""
        out = self.head.folder / "shell.out"
        status = run(
            self.head, sys.executable, "-c", f"import sys; sys.stdout = open({str(out)!r}, 'w')\n{code}"
        )
        assert status == 0, self.head.logs()
        return out.read_text()


@contextmanager
def hosts_of_a_cluster(num_workers: int = 1) -> Iterator[Cluster]:
    """A Ray cluster of a head and workers with one CPU each, and an S3 server on the head."""
    # Ray puts sockets below, whose paths may have 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="tb"))
    names = "abc"[: num_workers + 1]
    folders = [folder / name for name in names]
    hosts = [
        Host(f"{PREFIX}-{name}", f"10.77.0.{number}", own, hidden=[each for each in folders if each != own])
        for number, (name, own) in enumerate(zip(names, folders, strict=True), 1)
    ]
    for each in folders:
        each.mkdir()
    head, *workers = hosts
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.callback(_unlink, hosts)
        _unlink(hosts)  # what a killed test may have left
        _link(head, workers)
        query = f"endpoint_override={head.address}:{S3_PORT}&scheme=http&region=us-east-1"
        storage_url = f"s3://bucket/runs?{query}&allow_bucket_creation=true"
        for host in hosts:
            host.environment = {
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",
                "AWS_EC2_METADATA_DISABLED": "true",
                "GLOO_SOCKET_IFNAME": f"{host.name}-eth",
                "RAY_AUTH_MODE": "token",
                "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
                "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
                "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef",
                "TUNEBOOK_CACHE_DIR": str(host.folder / "cache"),
                "TUNEBOOK_STORAGE_URL": storage_url,
                "HOME": str(host.folder),
                # What vLLM has found out about model classes once, in a process that takes long to start.
                "VLLM_CACHE_ROOT": str(Path.home() / ".cache" / "vllm"),
            }
        _keep(stack, head.popen(sys.executable, S3_SERVER, head.address, str(S3_PORT)))
        cluster = Cluster(head, workers, storage_url, f"{head.address}:{RAY_PORT}")
        _keep(stack, start_head(head))
        for worker in workers:
            _keep(stack, join(cluster, worker))
        cluster.shell(MAKE_BUCKET)
        yield cluster


def start_head(head: Host) -> subprocess.Popen[str]:
    temp = ("--temp-dir", str(head.folder / "ray"))
    where = ("--head", "--node-ip-address", head.address, "--port", str(RAY_PORT), *temp)
    process = head.popen(RAY, "start", *where, *ONE_CPU, "--include-dashboard", "false")
    _await_ray(head)
    return process


def join(cluster: Cluster, worker: Host) -> subprocess.Popen[str]:
    where = ("--address", cluster.ray_address, "--node-ip-address", worker.address)
    return worker.popen(RAY, "start", *where, *ONE_CPU)


def run(host: Host, *command: str, timeout_s: float = 600, **extra: str) -> int:
    return wait(host.popen(*command, **extra), timeout_s)


def wait(process: subprocess.Popen[str], timeout_s: float) -> int:
    """Its exit status; nothing of it is left."""
    try:
        return process.wait(timeout_s)
    finally:
        end(process)


def end(process: subprocess.Popen[str]) -> None:
    """Kill a process and all that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _keep(stack: ExitStack, process: subprocess.Popen[str]) -> None:
    stack.callback(end, process)


def _await_ray(host: Host, timeout_s: float = 240) -> None:
    deadline = time.monotonic() + timeout_s
    while "Ray runtime started" not in host.logs():
        if time.monotonic() > deadline:
            raise TimeoutError(f"Ray on {host.name}:\n{host.logs()}")
        time.sleep(0.2)


def _link(head: Host, workers: list[Host]) -> None:
    """A switch on the head, with a link to each worker."""
    for host in (head, *workers):
        _ip("netns", "add", host.name)
    _ip("-n", head.name, "link", "add", f"{head.name}-eth", "type", "bridge")
    for worker in workers:
        port = ("peer", f"{worker.name}-port", "netns", head.name)
        _ip("link", "add", f"{worker.name}-eth", "netns", worker.name, "type", "veth", *port)
        _ip("-n", head.name, "link", "set", f"{worker.name}-port", "master", f"{head.name}-eth", "up")
    for host in (head, *workers):
        _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", f"{host.name}-eth")
        switch(host.name, "up")
        _ip("-n", host.name, "link", "set", "lo", "up")


def switch(name: str, state: Literal["up", "down"]) -> None:
    """A host's link."""
    _ip("-n", name, "link", "set", f"{name}-eth", state)


def lose(name: str) -> None:
    """End all that runs on a host, and cut it off."""
    subprocess.run(["ip", "-n", name, "link", "set", f"{name}-eth", "down"], capture_output=True)
    inside = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
    for pid in inside.stdout.split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def _unlink(hosts: list[Host]) -> None:
    for host in hosts:
        lose(host.name)
        subprocess.run(["ip", "netns", "delete", host.name], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
