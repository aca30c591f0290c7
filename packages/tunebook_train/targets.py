"""Which layers of a base model an adapter updates, told from the names of its weights alone."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path

from safetensors import safe_open

from tunebook_model.folder import weight_files
from tunebook_spec.method import AdapterMethod

HEADS = ("embed_tokens", "lm_head")
"""Embedding and head, by the last part of their names. The loss reads their weights as they are, and where
they are tied an update of one would miss the other."""


def target_problems(method: AdapterMethod, base_dir: Path) -> Iterator[tuple[str, str]]:
    """Fields of an adapter that do not fit a base model, and why."""
    weights = weight_shapes(base_dir)
    linear = {name.removesuffix(".weight") for name, shape in weights.items() if _is_matrix(name, shape)}
    linear = {name for name in linear if _last(name) not in HEADS}
    modules = {parent for name in weights for parent in _parents(name)} | set(HEADS)
    if problem := _target_problem(method.target_modules, linear, modules - linear):
        yield "target_modules", problem
    leaves = {name.rpartition(".")[0] for name in weights} | set(HEADS)
    for part in method.modules_to_save:
        # PEFT's rule for these does not ask for a whole part of a name.
        found = [name for name in leaves if name.endswith(part)]
        if not found:
            known = ", ".join(sorted({_last(name) for name in leaves - linear}))
            yield "modules_to_save", f"no module's name ends in {part!r}; there are: {known}"
        elif not linear.isdisjoint(found):
            message = f"{part!r} is a linear layer, which gets an adapter: name it in target_modules"
            yield "modules_to_save", message


def _target_problem(
    target: str | tuple[str, ...], linear: Collection[str], other: Collection[str]
) -> str | None:
    names = ", ".join(sorted({_last(name) for name in linear}))
    known = f"its linear layers are: {names}"
    if target == "all-linear":
        return None if linear else "the base model has no linear layers"
    for part in (target,) if isinstance(target, str) else target:
        one = part if isinstance(target, str) else (part,)
        heads = sorted({_last(name) for name in matched(one, other) if _last(name) in HEADS})
        if heads:
            return (
                f"{part!r} matches {heads[0]}, which adapters leave as it is: the loss reads its weight,"
                f" and a tied one would come apart; name it in modules_to_save, or take one of these: {names}"
            )
        if wrong := matched(one, other):
            return f"{part!r} matches {wrong[0]!r}, which is no linear layer; {known}"
        if not matched(one, linear):
            hint = " (a string is a regular expression for whole names; a name stands in a list)"
            return f"no module matches {part!r}{hint if isinstance(target, str) else ''}; {known}"
    return None


def matched(target: str | tuple[str, ...], names: Collection[str]) -> list[str]:
    """The names that a target means, by PEFT's own rule."""
    if isinstance(target, str):
        return sorted(name for name in names if re.fullmatch(target, name))
    return sorted(name for name in names if any(name == part or name.endswith(f".{part}") for part in target))


def weight_shapes(base_dir: Path) -> dict[str, list[int]]:
    """Shape of every tensor by name, from the headers of the weight files."""
    shapes: dict[str, list[int]] = {}
    for path in weight_files(base_dir):
        with safe_open(path, framework="numpy") as file:
            shapes |= {name: file.get_slice(name).get_shape() for name in file.keys()}
    return shapes


def _is_matrix(name: str, shape: list[int]) -> bool:
    return name.endswith(".weight") and len(shape) == 2


def _parents(name: str) -> Iterator[str]:
    """Every module that a tensor lies in: `a.b` and `a` for `a.b.weight`."""
    parts = name.split(".")
    return (".".join(parts[:end]) for end in range(1, len(parts)))


def _last(name: str) -> str:
    return name.rpartition(".")[2]
