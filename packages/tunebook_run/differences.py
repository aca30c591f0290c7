"""Where two values of JSON differ, leaf by leaf."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_SHOWN = 60
"""Characters of a value that a table shows."""


@dataclass(frozen=True)
class Difference:
    path: str
    """Dotted, as `--set` has it: `method.learning_rate`, `data.sources.0.path`."""
    one: Any = None
    other: Any = None
    is_in_one: bool = True
    is_in_other: bool = True

    @property
    def is_change(self) -> bool:
        """Both sides have it."""
        return self.is_in_one and self.is_in_other

    @property
    def shown(self) -> tuple[str, str]:
        """Both values in one short line each; `-` where there is none."""
        return (
            _shown(self.one) if self.is_in_one else "-",
            _shown(self.other) if self.is_in_other else "-",
        )


def differences(one: Any, other: Any, at: str = "") -> Iterator[Difference]:
    """What differs, in the order of the first and then of the second; nothing where both are equal."""
    if one == other:
        return
    first, second = _children(one), _children(other)
    if first is None or second is None or isinstance(one, Mapping) != isinstance(other, Mapping):
        yield Difference(at, one, other)
        return
    for name in dict.fromkeys((*first, *second)):
        place = f"{at}.{name}" if at else name
        if name in first and name in second:
            yield from differences(first[name], second[name], place)
        elif name in first:
            yield Difference(place, one=first[name], is_in_other=False)
        else:
            yield Difference(place, other=second[name], is_in_one=False)


def _children(value: Any) -> dict[str, Any] | None:
    """By name or number; None for a leaf."""
    if isinstance(value, Mapping):
        return {str(name): each for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return {str(number): each for number, each in enumerate(value)}
    return None


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}... ({len(text)} characters)"
