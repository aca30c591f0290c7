"""Answers that should be Python: whether they parse, please a linter, and do what their examples say."""

from __future__ import annotations

import ast
import logging
import os
import re
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

from tunebook_data import ruff
from tunebook_data.datasets.code_functions import signature as signature_of
from tunebook_eval import doctest_child
from tunebook_spec.errors import DataError, StageError
from tunebook_spec.metrics import CodeDoctests

logger = logging.getLogger(__name__)

NOBODY = "65534"
_RESULT = re.compile(rb"\[(\d+), (\d+)\]")
_MAX_SAID = 64
_FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)^```", re.DOTALL | re.MULTILINE | re.IGNORECASE)


def code_of(text: str) -> str:
    """An answer's first fenced block, or all of it where nothing is fenced."""
    fenced = _FENCED.search(text)
    return fenced[1] if fenced else text


def parses(text: str) -> bool:
    """Whether there is code, and it parses."""
    if not code_of(text).strip():
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the code that is read, not of ours
        try:
            ast.parse(code_of(text))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True


def defines(text: str, signature: str) -> bool:
    """Whether an answer defines, at its top, a function of this name and these parameters."""
    if not parses(text):
        return False
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    top = [node for node in ast.parse(code_of(text)).body if isinstance(node, functions)]
    try:
        return signature in [signature_of(node) for node in top]
    except RecursionError:  # parsed, and nested too deeply to be written out
        return False


def passes_ruff(texts: Sequence[str], config: str) -> list[bool]:
    """Whether there is code in each answer and ruff finds nothing in it, all read by one process.

    Raises:
        StageError: the configuration is refused.
    """
    try:
        codes = [code_of(text) for text in texts]
        clean = ruff.is_clean(codes, config)
        return [is_clean and bool(code.strip()) for code, is_clean in zip(codes, clean, strict=True)]
    except DataError as error:
        raise StageError(str(error)) from None


def ruff_problem(config: str) -> str | None:
    """What ruff says of a configuration that it refuses."""
    problem = ruff.config_problem(config)
    return None if problem is None else f"ruff refuses it: {problem}"


def pass_doctests(
    metric: CodeDoctests, texts: Sequence[str], examples: Sequence[str | None]
) -> list[float | None]:
    """1 if all doctest examples of an answer pass, 0 if one fails; None without an example.

    Args:
        metric: The limits.
        texts: The answers.
        examples: What to try on each; None: the examples of its own docstrings.

    Raises:
        StageError: this machine cannot keep what a model wrote from starting processes.
    """
    cell = find_cell()
    limits = doctest_child.Limits(metric.timeout_s, metric.memory_mib)

    def run(pair: tuple[str, str | None]) -> float | None:
        if pair[1] is not None and ">>>" not in pair[1]:
            return None  # whether it runs at all is not what was asked, and would count failures alone
        tried = _try(cell, doctest_child.Task(code_of(pair[0]), pair[1], limits))
        return None if tried is None else float(tried)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(run, zip(texts, examples, strict=True)))


@dataclass(frozen=True)
class Cell:
    """How a program is started so that it can do little harm."""

    prefix: tuple[str, ...]
    has_network: bool


@cache
def find_cell() -> Cell:
    """The tightest that this machine allows; in none can a process be started, as the child itself tries.

    The superuser becomes nobody, who may read and not write. Without the right to make a namespace, the
    network stays within reach, and that is logged.
    """
    keeps_reading = ("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search")
    as_nobody = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *keeps_reading)
    if os.geteuid() == 0:
        cells = (Cell(("unshare", "--net", *as_nobody), False), Cell(as_nobody, True))
    else:
        cells = (Cell(("unshare", "--user", "--map-root-user", "--net"), False), Cell((), True))
    probe = doctest_child.Task("", ">>> 1 + 1\n2\n", doctest_child.Limits(30.0, 512))
    for cell in cells:
        if _try(cell, probe):
            if cell.has_network:
                logger.warning(
                    "code_doctests: this machine gives no network namespace; what a model wrote has network"
                )
            return cell
    raise StageError(
        "code_doctests: nothing here keeps what a model wrote from starting processes; install util-linux "
        "(unshare, setpriv), or run as a user that is not the superuser"
    )


def _try(cell: Cell, task: doctest_child.Task) -> bool | None:
    """Whether every example passed; None if there is none. What is killed, or ends early, has not passed."""
    with tempfile.TemporaryDirectory() as scratch:
        os.chmod(scratch, 0o755)
        said = _said(cell, task, scratch)
    told = _RESULT.fullmatch(said)
    if told is None:
        return False
    attempted, failed = map(int, told.groups())
    return None if attempted == 0 and failed == 0 else failed == 0


def _said(cell: Cell, task: doctest_child.Task, scratch: str) -> bytes:
    """What the child writes in its time, up to a little more than a result: code could write without end."""
    command = [*cell.prefix, sys.executable, "-I", "-S", doctest_child.__file__]
    pipe = subprocess.PIPE
    try:
        child = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, cwd=scratch, env={}
        )
    except FileNotFoundError:
        return b""
    late = threading.Timer(task.limits.timeout_s + START_S, child.kill)
    late.start()
    assert child.stdin is not None
    assert child.stdout is not None
    with child, child.stdout:
        try:
            with child.stdin:
                child.stdin.write(task.to_json())
            return child.stdout.read(_MAX_SAID)
        except BrokenPipeError:
            return b""
        finally:
            child.kill()
            late.cancel()


START_S = 10.0
"""What a busy machine may take to start Python, on top of the limit that the child keeps itself."""
