"""Loops over arrays as machine code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

Loop = TypeVar("Loop", bound=Callable[..., Any])


def compiled(loop: Loop) -> Loop:
    """The same as machine code, made at its first call on this machine; other threads run beside it."""
    made: Loop = numba.njit(cache=True, nogil=True)(loop)
    return made
