"""Loops over arrays as machine code, and what such loops do to arrays that Python has no fast word for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
import numpy.typing as npt
from numba.core import types
from numba.extending import intrinsic

Loop = TypeVar("Loop", bound=Callable[..., Any])


def compiled(loop: Loop) -> Loop:
    """The same as machine code, made at its first call on this machine; other threads run beside it."""
    made: Loop = numba.njit(cache=True, nogil=True)(loop)
    return made


def _load_word(typing: Any, data: Any, at: Any) -> Any:
    def load(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(_pointer(context, builder, signature, values), align=1)

    return types.uint64(data, types.intp), load


def _store_word(typing: Any, data: Any, at: Any, word: Any) -> Any:
    def store(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store(values[2], _pointer(context, builder, signature, values), align=1)
        return context.get_dummy_value()

    return types.void(data, types.intp, types.uint64), store


def _pointer(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    """To eight bytes of an array as one number."""
    array = context.make_array(signature.args[0])(context, builder, values[0])
    word = context.get_value_type(types.uint64).as_pointer()
    return builder.bitcast(builder.gep(array.data, [values[1]]), word)


# A slice seen as one number would do, and take ten times as long.
load_word: Callable[[npt.NDArray[np.uint8], int], np.uint64] = intrinsic(_load_word)
"""In a loop: the eight bytes from a place on, which all must be there, as one number, the first the least."""
store_word: Callable[[npt.NDArray[np.uint8], int, np.uint64], None] = intrinsic(_store_word)
"""In a loop: the inverse."""
