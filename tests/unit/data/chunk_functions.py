"""What workers do in tests; a process that begins for it imports this alone."""

from __future__ import annotations

import multiprocessing

from tunebook_spec.errors import DataError


def square(number: int) -> int:
    return number * number


def process_of(_: int) -> str:
    return multiprocessing.current_process().name


def refuse_five(number: int) -> int:
    if number == 5:
        raise DataError("five")
    return number
