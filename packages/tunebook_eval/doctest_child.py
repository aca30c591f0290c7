"""Run by itself: one answer's code and its examples, under limits that it sets; standard library alone."""

from __future__ import annotations

import doctest
import json
import math
import os
import resource
import signal
import sys
import types
from dataclasses import asdict, dataclass

_READS = ("os.chdir", "os.fwalk", "os.getxattr", "os.listdir", "os.listxattr", "os.scandir", "os.walk")
_OF_ITSELF = ("os.putenv", "os.unsetenv")
_REFUSED = (
    "os.",
    "shutil.",
    "tempfile.",
    "socket.",
    "ctypes.",
    "sqlite3.",
    "subprocess.",
    "resource.prlimit",
)
"""Families of audit events (PEP 578) that change what is not the process's own, or get round this hook."""
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Limits:
    timeout_s: float
    memory_mib: int


@dataclass(frozen=True)
class Task:
    code: str
    examples: str | None
    """Doctest examples; None: those of the code's own docstrings."""
    limits: Limits

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()


def confine(limits: Limits) -> None:
    """Give up all that a pure function does not need.

    Raises:
        RuntimeError: another process could still be started.
    """
    seconds, memory = math.ceil(limits.timeout_s), limits.memory_mib * 2**20
    for what, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(what, (most, most))
    signal.setitimer(signal.ITIMER_REAL, limits.timeout_s)  # ends the process, unless the code catches it
    try:
        child = os.fork()
    except OSError:
        sys.addaudithook(_refuse)
        return
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    raise RuntimeError("a process could be started")


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    """Let code delete, write and signal nothing: limits do not keep it from what its user owns.

    It stops what a model writes by accident. Whoever means to gets round it.
    """
    if event == "open":
        changes = isinstance(flags := arguments[2], int) and bool(flags & _WRITES)
    else:
        changes = event.startswith(_REFUSED) and event not in (*_READS, *_OF_ITSELF)
    if changes:
        raise PermissionError(f"{event}: code under doctest may only read")


def run(code: str, examples: str | None) -> tuple[int, int]:
    """Examples tried, and failed; code that does not run has failed."""
    module = types.ModuleType("answer")
    try:
        exec(compile(code, "answer.py", "exec", dont_inherit=True), module.__dict__)
    except BaseException:
        return 0, 1
    if examples is None:
        found = doctest.DocTestFinder(exclude_empty=True).find(module, "answer", module)
    else:
        try:
            found = [doctest.DocTestParser().get_doctest(examples, module.__dict__, "answer", None, None)]
        except ValueError:
            return 0, 0
    runner = doctest.DocTestRunner(verbose=False)
    for each in found:
        runner.run(each, out=lambda _: None)
    return runner.tries, runner.failures


def main() -> None:
    """Read a task from stdin; write `[tried, failed]` to stdout, which code does not reach by printing."""
    task = json.load(sys.stdin)
    answer = os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    confine(Limits(**task["limits"]))
    os.write(answer, json.dumps(run(task["code"], task["examples"])).encode())
    os._exit(0)


if __name__ == "__main__":
    main()
