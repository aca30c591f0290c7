"""Two hosts on one machine: network namespaces with a link between, and nothing shared but what it carries.

Each host has a folder of its own, which the other cannot see; artifacts go through an S3 server on the first.
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

PREFIX = "tunebook"
S3_PORT, RAY_PORT = 5055, 6399
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
    """This host's own; an empty mount hides the other host's."""
    hidden: Path
    environment: dict[str, str] = field(default_factory=dict)

    def popen(self, *command: str, **extra: str) -> subprocess.Popen[str]:
        """Start a command on this host, as the leader of a process group."""
        hide = f'mount -t tmpfs none "{self.hidden}" && exec "$@"'
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
    worker: Host
    storage_url: str
    ray_address: str

    def shell(self, code: str) -> str:
        """What Python code prints on the head."""
        out = self.head.folder / "shell.out"
        status = run(
            self.head, sys.executable, "-c", f"import sys; sys.stdout = open({str(out)!r}, 'w')\n{code}"
        )
        assert status == 0, self.head.logs()
        return out.read_text()


@contextmanager
def two_hosts() -> Iterator[Cluster]:
    """A Ray cluster of two hosts with one CPU each, and an S3 server on the first."""
    # Ray puts sockets below, whose paths may have 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="tb"))
    a, b = folder / "a", folder / "b"
    a.mkdir()
    b.mkdir()
    hosts = [
        Host(f"{PREFIX}-a", "10.77.0.1", a, hidden=b),
        Host(f"{PREFIX}-b", "10.77.0.2", b, hidden=a),
    ]
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.callback(_unlink, hosts)
        _unlink(hosts)  # what a killed test may have left
        _link(hosts)
        query = f"endpoint_override={hosts[0].address}:{S3_PORT}&scheme=http&region=us-east-1"
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
        python = sys.executable
        moto = ("-m", "moto.server", "-H", hosts[0].address, "-p", str(S3_PORT))
        _keep(stack, hosts[0].popen(python, *moto))
        ray = str(Path(python).with_name("ray"))
        cpus = ("--num-cpus", "1", "--block", "--disable-usage-stats")
        head, worker = hosts
        head_address = f"{head.address}:{RAY_PORT}"
        temp = ("--temp-dir", str(head.folder / "ray"))
        where = ("--head", "--node-ip-address", head.address, "--port", str(RAY_PORT), *temp)
        _keep(stack, head.popen(ray, "start", *where, *cpus, "--include-dashboard", "false"))
        _await_ray(head)
        join = ("--address", head_address, "--node-ip-address", worker.address)
        _keep(stack, worker.popen(ray, "start", *join, *cpus))
        cluster = Cluster(head, worker, storage_url, head_address)
        cluster.shell(MAKE_BUCKET)
        yield cluster


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


def _link(hosts: list[Host]) -> None:
    ends = [f"{host.name}-eth" for host in hosts]
    for host in hosts:
        _ip("netns", "add", host.name)
    _ip(
        "link",
        "add",
        ends[0],
        "netns",
        hosts[0].name,
        "type",
        "veth",
        "peer",
        ends[1],
        "netns",
        hosts[1].name,
    )
    for host, device in zip(hosts, ends, strict=True):
        _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", device)
        _ip("-n", host.name, "link", "set", device, "up")
        _ip("-n", host.name, "link", "set", "lo", "up")


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
