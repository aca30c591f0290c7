"""The exceptions a user can meet.

TunebookError            exit status 1
├─ InputError            exit status 2: something given to us is wrong; also a ValueError
│  ├─ SpecError          the spec (every problem at once)
│  ├─ SettingsError      a setting of this machine
│  ├─ DataError          a source or its rows
│  └─ ModelError         a base model
├─ StageError            a stage failed; also a RuntimeError
├─ IntegrityError        what was about to be used is not what was checked; also a RuntimeError
├─ StoreError            artifacts could not be read or written; also an OSError
│  └─ LockedError        another run writes the same stage
└─ MissingExtraError     an optional dependency is not installed; also an ImportError
"""

from __future__ import annotations

from dataclasses import dataclass


class TunebookError(Exception):
    """Printed without a traceback: says what is wrong, where, the value, and the way out."""

    exit_status: int = 1


class InputError(TunebookError, ValueError):
    exit_status = 2


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a spec."""

    where: str
    """Dotted path of the field, e.g. `method.learning_rate`; empty for the file as a whole."""
    message: str
    line: int | None = None
    """1-based line in the spec's file; None for what came from `--set` or the environment."""

    def __str__(self) -> str:
        place = ", ".join(part for part in (f"line {self.line}" if self.line else "", self.where) if part)
        return f"{place}: {self.message}" if place else self.message


class SpecError(InputError):
    """Every problem found in one spec."""

    def __init__(self, source: str, problems: tuple[Problem, ...]) -> None:
        super().__init__(source, problems)
        self.source = source
        self.problems = problems

    def __str__(self) -> str:
        count = len(self.problems)
        head = f"{self.source}: {count} problem{'s' if count != 1 else ''}"
        return "\n".join([head, *(f"  {problem}" for problem in self.problems)])


class SettingsError(InputError):
    pass


class DataError(InputError):
    pass


class ModelError(InputError):
    pass


class StageError(TunebookError, RuntimeError):
    pass


class IntegrityError(TunebookError, RuntimeError):
    pass


class StoreError(TunebookError, OSError):
    pass


class LockedError(StoreError):
    pass


class MissingExtraError(TunebookError, ImportError):
    pass
