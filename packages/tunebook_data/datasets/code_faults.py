"""Functions in house style to ones with faults of style, as a restyle task shows them."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterable, Iterator
from itertools import pairwise

from tunebook_data import ruff
from tunebook_data.datasets.code_functions import HouseFunction, definition

_OTHER_STYLE = """
line-length = 110
[lint]
select = ["F401", "E703"]
[format]
quote-style = "double"
"""
_CHANCE_NO_ANNOTATIONS = 0.6
_CHANCE_COMMENT = 0.5


def with_faults(functions: Iterable[HouseFunction], seed: int) -> list[str]:
    """The code of each with its own faults, drawn by seed and name.

    All lose the import of `annotations`, single quotes and narrow lines, and have messages inside of `raise`;
    three in five lose their annotations; in one half the docstring is a comment, in the other careless.
    """
    return [code.strip() for code in ruff.fixed([_faulty(each, seed) for each in functions], _OTHER_STYLE)]


def _faulty(house: HouseFunction, seed: int) -> str:
    rng = random.Random(f"code_style/faults/{seed}/{house.cut.module}:{house.cut.name}")
    tree = ast.parse(house.code)
    function = definition(house.code)
    rest = [node for node in tree.body if not isinstance(node, ast.FunctionDef) and not _is_future(node)]
    if rng.random() < _CHANCE_NO_ANNOTATIONS:
        _drop_annotations(function)
    _put_messages_into_raise(function)
    careless = f"{house.cut.summary[0].lower()}{house.cut.summary[1:].rstrip('.')}"
    comment = ""
    if rng.random() < _CHANCE_COMMENT:
        del function.body[0]
        comment = f"# {careless}\n"
    else:
        function.body[0] = ast.Expr(ast.Constant(careless))
    imports = "".join(f"{ast.unparse(node)}\n" for node in rest)
    return f"{imports}\n\n{comment}{ast.unparse(function)}\n"


def _is_future(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def _drop_annotations(function: ast.FunctionDef) -> None:
    for node in ast.walk(function):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
    for block in _blocks(function):
        block[:] = [_plain(statement) for statement in block]


def _plain(statement: ast.stmt) -> ast.stmt:
    if isinstance(statement, ast.AnnAssign) and statement.value is not None:
        return ast.copy_location(ast.Assign([statement.target], statement.value), statement)
    return statement


def _put_messages_into_raise(function: ast.FunctionDef) -> None:
    """`msg = 'text'` before `raise Error(msg)` becomes `raise Error('text')`."""
    for block in _blocks(function):
        for before, after in pairwise(block[:]):
            match before, after:
                case (
                    ast.Assign(targets=[ast.Name(id="msg")], value=text),
                    ast.Raise(exc=ast.Call(args=[ast.Name(id="msg")]) as error),
                ):
                    error.args = [text]
                    block.remove(before)


def _blocks(function: ast.FunctionDef) -> Iterator[list[ast.stmt]]:
    for node in ast.walk(function):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list):
                yield block
