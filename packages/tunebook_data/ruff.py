"""Ruff over many pieces of code at once: one process for all of them, as quick as for one."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunebook_spec.errors import DataError

RUFF = (sys.executable, "-I", "-m", "ruff")
_QUIET = ("--exit-zero", "--quiet", "--ignore-noqa", "--no-cache", "--output-format", "json")


@dataclass(frozen=True)
class Ruffed:
    codes: tuple[str, ...]
    """As they are now, in order."""
    output: str
    problem: str | None
    """What ruff says of a configuration that it refuses."""
    has_died: bool
    """It was ended by a signal: code can be nested so deeply that its stack overflows."""


def is_clean(codes: Sequence[str], config: str) -> list[bool]:
    """Whether ruff finds nothing in each; `noqa` comments do not count, and what it dies of is not clean.

    Raises:
        DataError: the configuration is refused.
    """
    done = _run(codes, config, "check", *_QUIET, "--no-fix")
    if done.has_died:
        half = len(codes) // 2
        return [*is_clean(codes[:half], config), *is_clean(codes[half:], config)] if half else [False]
    done = _accepted(done)
    found = {Path(each["filename"]).name for each in json.loads(done.output)}
    return [_name(number) not in found for number in range(len(codes))]


def fixed(codes: Sequence[str], config: str) -> list[str]:
    """Each with all that ruff can fix, unsafe fixes too, and formatted; what does not parse stays as it is.

    Raises:
        DataError: the configuration is refused.
    """
    done = _accepted(_run(codes, config, "check", *_QUIET, "--fix", "--unsafe-fixes"))
    return formatted(done.codes, config)


def formatted(codes: Sequence[str], config: str) -> list[str]:
    """Each in ruff's format; what does not parse stays as it is.

    Raises:
        DataError: the configuration is refused.
    """
    return list(_accepted(_run(codes, config, "format", "--quiet", "--no-cache")).codes)


def config_problem(config: str) -> str | None:
    """What ruff says of a configuration that it refuses."""
    return _run([""], config, "check", *_QUIET).problem


def _accepted(done: Ruffed) -> Ruffed:
    if done.has_died:
        raise DataError("ruff was ended by a signal: some code nests too deeply for it, or memory is short")
    if done.problem is not None:
        raise DataError(f"ruff cannot be used with this configuration: {done.problem}")
    return done


def _run(codes: Sequence[str], config: str, command: str, *options: str) -> Ruffed:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        paths = [folder / _name(number) for number in range(len(codes))]
        for path, code in zip(paths, codes, strict=True):
            path.write_text(code, encoding="utf-8", errors="replace")
        (folder / "ruff.toml").write_text(config, encoding="utf-8")
        done = subprocess.run(
            [*RUFF, command, *options, "--config", "ruff.toml", "."],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        # `format` fails too where a file does not parse; a refused configuration names its file.
        refused = done.returncode != 0 and (command == "check" or "ruff.toml" in done.stderr)
        return Ruffed(
            tuple(path.read_text(encoding="utf-8") for path in paths),
            done.stdout,
            done.stderr.strip() if refused else None,
            has_died=done.returncode < 0,
        )


def _name(number: int) -> str:
    return f"answer_{number:06}.py"
