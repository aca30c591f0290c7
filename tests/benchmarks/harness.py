"""Times this project and its peers on the same input, in turns, and says by how much who is faster.

Every contender is a script that one fresh process runs per repeat; what it times begins after its imports and
ends with its answer. Peers live in environments of their own under `.bench/`, made once.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(__file__).parent / "contenders"
WORK = ROOT / ".bench"
US = "tunebook"

Answer = dict[str, Any]
"""What a contender found, in figures and digests that can be compared."""


class BenchError(Exception):
    """A benchmark cannot be run, or its contenders did not do the same work."""


@dataclass(frozen=True)
class Peer:
    name: str
    requirements: tuple[str, ...] | None
    """What pip installs into its environment, exact; empty: it is bare; None: it lives in ours."""
    max_size: int | None = None
    """A peer that would take too long is timed on a smaller input, and so are we for that ratio."""


@dataclass(frozen=True)
class Benchmark:
    name: str
    size: int
    """Of the full input, in rows."""
    peers: tuple[Peer, ...]
    make: Callable[[Path, int], None]
    """Fills an empty folder with the input of a size; the same bytes every time."""
    equal: Callable[[Path, Mapping[str, Answer]], dict[str, Any]]
    """What was found equal, with its figures, from the input and each contender's answer.

    Raises:
        BenchError: two did not do the same work.
    """
    overheads: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """What `measured` calls the seconds by which one contender takes longer than another, which does less."""
    figures: tuple[str, ...] = ()
    """Of our answers, those whose medians `measured` tells."""
    weighs_memory: bool = False
    """Whether all work in their main process, so that `peak_rss_ratio`, ours by theirs, says something."""


@dataclass(frozen=True)
class Outcome:
    """One contender's run."""

    seconds: float
    peak_mib: float
    """The largest resident set of its main process; helpers of it come on top."""
    answer: Answer
    versions: dict[str, str]


def run(benchmark: Benchmark, *, size: int, repeats: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Time every contender `repeats` times in turns; what `make bench` prints.

    Raises:
        BenchError: an environment cannot be made, a contender fails, or their answers differ.
    """
    pythons = {US: Path(sys.executable), **{peer.name: environment(peer, say) for peer in benchmark.peers}}
    sizes = {size: [peer.name for peer in benchmark.peers if not peer.max_size or peer.max_size >= size]}
    for peer in benchmark.peers:
        if peer.max_size and peer.max_size < size:
            sizes.setdefault(peer.max_size, []).append(peer.name)
    runs: dict[int, dict[str, list[Outcome]]] = {}
    equal: dict[str, Any] = {}
    for each, peers in sizes.items():
        with tempfile.TemporaryDirectory(dir=work_folder(), prefix=f"{benchmark.name}-") as made:
            folder = Path(made) / "input"
            folder.mkdir()
            benchmark.make(folder, each)
            runs[each] = {name: [] for name in (US, *peers)}
            for turn in range(repeats):
                # Each in turn goes first: whatever the machine does meanwhile meets all alike.
                names = [US, *peers]
                for name in (*names[turn % len(names) :], *names[: turn % len(names)]):
                    outcome = _one(pythons[name], benchmark.name, name, folder)
                    runs[each][name].append(outcome)
                    say(f"{benchmark.name} {each} rows, repeat {turn + 1}: {name} {outcome.seconds:.2f} s")
            answers = {name: outcomes[0].answer for name, outcomes in runs[each].items()}
            equal[str(each)] = benchmark.equal(folder, answers)
    return summary(benchmark, runs, equal)


def summary(
    benchmark: Benchmark, runs: Mapping[int, Mapping[str, Sequence[Outcome]]], equal: Mapping[str, Any]
) -> dict[str, Any]:
    """The figures of a benchmark whose inputs had the sizes of `runs`, the full one first.

    A ratio is the median over repeats of a peer's seconds by ours in the same repeat.
    """
    ratios, versions = {}, {}
    measured: dict[str, Any] = {}
    raw: dict[str, list[float]] = {}
    for size, outcomes in runs.items():
        ours = outcomes[US]
        for contender, theirs in outcomes.items():
            for package, version in theirs[0].versions.items():
                if versions.setdefault(package, version) != version:
                    versions[f"{package} of {contender}"] = version
            label = contender if size == next(iter(runs)) or contender != US else f"{US} at {size}"
            raw[label] = [round(each.seconds, 3) for each in theirs]
            measured[label] = {
                "rows": size,
                "seconds": round(statistics.median(each.seconds for each in theirs), 3),
                "main_process_peak_mib": round(peak(theirs)),
            }
            if contender != US:
                each_turn = [them.seconds / us.seconds for them, us in zip(theirs, ours, strict=True)]
                ratios[contender] = round(statistics.median(each_turn), 3)
                measured[label]["ratios"] = [round(ratio, 3) for ratio in sorted(each_turn)]
                if benchmark.weighs_memory:
                    measured[label]["peak_rss_ratio"] = round(peak(ours) / peak(theirs), 3)
    answers = [each.answer for each in next(iter(runs.values()))[US]]
    for figure in benchmark.figures:
        measured[figure] = round(statistics.median(answer[figure] for answer in answers), 3)
    for label, (longer, shorter) in benchmark.overheads.items():
        more = [one - other for one, other in zip(raw[longer], raw[shorter], strict=True)]
        measured[label] = round(statistics.median(more), 3)
    return {
        "name": benchmark.name,
        "ratios": ratios,
        "measured": measured,
        "raw": raw,
        "equal": dict(equal),
        "versions": dict(sorted(versions.items())),
        "machine": machine(),
    }


def peak(outcomes: Sequence[Outcome]) -> float:
    return max(each.peak_mib for each in outcomes)


def environment(peer: Peer, say: Callable[[str], None]) -> Path:
    """The Python of a peer's environment, which is made where it is missing.

    Raises:
        BenchError: pip cannot make it; with its last lines.
    """
    if peer.requirements is None:
        return Path(sys.executable)
    digest = hashlib.sha256("\n".join((sys.version, *peer.requirements)).encode()).hexdigest()[:8]
    folder = work_folder() / "venvs" / f"{peer.name}-{digest}"
    python, done = folder / "bin" / "python", folder / "done"
    if not done.exists():
        say(f"setting up {peer.name}: {', '.join(peer.requirements)}")
        shutil.rmtree(folder, ignore_errors=True)
        bare = [sys.executable, "-m", "venv", "--without-pip", str(folder)]
        full = [sys.executable, "-m", "venv", str(folder)]
        install = [str(python), "-m", "pip", "install", "--quiet", *peer.requirements]
        for command in (full, install) if peer.requirements else (bare,):
            made = subprocess.run(command, capture_output=True, text=True)
            if made.returncode:
                raise BenchError(
                    f"no environment for {peer.name}:\n{made.stdout[-500:]}{made.stderr[-1500:]}"
                )
        done.touch()
    return python


def work_folder() -> Path:
    WORK.mkdir(exist_ok=True)
    return WORK


def machine() -> dict[str, Any]:
    """What decides speeds, and nothing that tells whose machine it is."""
    told = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in told if line.startswith("model name")]
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages * page_bytes / 2**30, 1),
        "load_1min": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _one(python: Path, benchmark: str, contender: str, folder: Path) -> Outcome:
    script = SCRIPTS / f"{benchmark}_{contender}.py"
    with tempfile.TemporaryDirectory(dir=work_folder()) as scratch:
        out = Path(scratch) / "outcome.json"
        env = {
            **{name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")},
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": f"{scratch}/hf",
        }
        if contender == US:
            env["PYTHONPATH"] = f"{ROOT / 'packages'}:{ROOT / 'services'}"
        command = [str(python), str(script), str(folder), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=scratch)
        if done.returncode:
            raise BenchError(f"{script.name} failed:\n{done.stderr[-3000:]}")
        return Outcome(**json.loads(out.read_text()))
