"""Functions out of pinned packages that stand alone: cut out, brought to a house style, and out of it."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from doctest import DocTestParser
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from tunebook_data import ruff
from tunebook_data.wheels import read_members

PACKAGES = (
    "algorithms",
    "kornia",
    "langchain-core",
    "pydash",
    "torchmetrics",
    "trimesh",
    "textual",
    "narwhals",
    "pint",
    "sqlglot",
    "werkzeug",
)
MAX_BODY_LINES = 20
MAX_SUMMARY_CHARS = 70
MAX_CODE_CHARS = 700
_HAS_FUNCTION = re.compile(rb"^def [^_]", re.MULTILINE)
_SENTENCE_END = re.compile(r"(?<=\.)\s|\n\s*\n")
_MARKUP = re.compile(r"``?|:\w+:|[*]{2}")


@dataclass(frozen=True)
class Cut:
    """A function with the imports that it needs."""

    package: str
    module: str
    """Path inside its wheel, without the suffix."""
    name: str
    summary: str
    """The first sentence of its docstring."""
    examples: str
    """Its docstring's doctest examples; empty if there is none."""
    code: str


@dataclass(frozen=True)
class HouseFunction:
    cut: Cut
    code: str
    """In house style: ruff finds nothing."""

    @property
    def folder(self) -> str:
        """Of its module: functions of one folder are often alike."""
        return self.cut.module.rpartition("/")[0]

    @property
    def signature(self) -> str:
        return signature(definition(self.code))


@lru_cache(maxsize=4)
def house_functions(assets_dir: Path, house: str) -> tuple[HouseFunction, ...]:
    """All functions that ruff can bring to a house style, in the order of packages and modules.

    Of functions of one name, or of one body, the first is kept. Kept in memory, for the tasks of one data set
    ask for the same.

    Args:
        assets_dir: folder that set-up filled.
        house: the style, as `ruff.toml` has it.

    Raises:
        DataError: a package is not there or not the pinned one, or ruff refuses the configuration.
    """
    cuts = [cut for package in PACKAGES for cut in _cuts(assets_dir, package)]
    codes = ruff.fixed([cut.code for cut in cuts], house)
    clean = ruff.is_clean(codes, house)
    kept = []
    taken: set[str] = set()
    for cut, code, is_clean in zip(cuts, codes, clean, strict=True):
        if not is_clean or len(code) > MAX_CODE_CHARS:
            continue
        keys = {cut.name.replace("_", "").lower(), body_digest(code)}
        if keys & taken:
            continue
        taken |= keys
        kept.append(HouseFunction(cut, code))
    return tuple(kept)


def definition(code: str) -> ast.FunctionDef:
    """The one function that a piece of code defines."""
    return next(node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef))


def signature(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Name and parameters, without annotations: `chunk(array, size=1)`."""
    bare = _bare(function)
    return f"{bare.name}({ast.unparse(bare.args)})"


def body_digest(code: str) -> str:
    """Of what a function does: the same whatever it is called, annotated and documented."""
    bare = _bare(definition(code))
    bare.name = ""
    if ast.get_docstring(bare) is not None:
        del bare.body[0]
    return sha256(ast.dump(bare).encode()).hexdigest()


def _bare(function: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.FunctionDef:
    """A copy without annotations."""
    copy = next(node for node in ast.parse(ast.unparse(function)).body)
    assert isinstance(copy, ast.FunctionDef | ast.AsyncFunctionDef)
    copy.returns = None
    for node in ast.walk(copy):
        if isinstance(node, ast.arg):
            node.annotation = None
    return copy  # type: ignore[return-value]


def _cuts(assets_dir: Path, package: str) -> Iterator[Cut]:
    for path, content in read_members(assets_dir, package, ".py"):
        is_of_tests = re.search(r"(^|[/_])(tests?|conftest|setup)([/_.]|$)", path)
        # Most modules have none, and to parse them takes long.
        if not is_of_tests and _HAS_FUNCTION.search(content):
            yield from _of_module(package, path.removesuffix(".py"), content)


def _of_module(package: str, module: str, content: bytes) -> Iterator[Cut]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the code that is read, not of ours
        tree = ast.parse(content)
    names = dict(_names(tree, module))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and _is_short(node):
            documented = _documented(ast.get_docstring(node) or "")
            if documented is not None:
                yield Cut(
                    package, module, node.name, *documented, _standing_alone(node, documented[0], names)
                )


def _is_short(node: ast.FunctionDef) -> bool:
    start, end = node.body[0].end_lineno, node.body[-1].end_lineno
    assert start is not None
    assert end is not None
    is_public = not node.name.startswith(("_", "test")) and node.name != "main"
    return is_public and not node.decorator_list and 0 < end - start <= MAX_BODY_LINES


def _documented(docstring: str) -> tuple[str, str] | None:
    """Summary and examples; none where the first sentence is too long to be a summary, or is about age."""
    first = _MARKUP.sub("", " ".join(_SENTENCE_END.split(docstring.strip())[0].split())).rstrip(" .:")
    if not 10 <= len(first) < MAX_SUMMARY_CHARS or not first.isascii() or '"' in first or "\\" in first:
        return None
    if re.match("(?i)deprecated", first):
        return None
    try:
        examples = DocTestParser().get_examples(docstring)
    except ValueError:
        examples = []
    shown = "".join(_shown(each.source) + each.want for each in examples)
    return f"{first[0].upper()}{first[1:]}.", shown


def _shown(source: str) -> str:
    first, *more = source.splitlines()
    return "".join([f">>> {first}\n", *(f"... {line}\n" for line in more)])


def _names(tree: ast.Module, module: str) -> Iterator[tuple[str, ast.stmt]]:
    """Each name of a module's top, with the import that brings it to another module."""
    path = module.split("/")
    here = ".".join(path[:-1] if path[-1] == "__init__" else path)
    for node in tree.body:
        match node:
            case ast.Import():
                for alias in node.names:
                    yield (alias.asname or alias.name).split(".")[0], ast.Import([alias])
            case ast.ImportFrom(module=source, level=level) if source != "__future__":
                origin = ".".join([*(path[:-level] if level else []), *([source] if source else [])])
                for alias in node.names:
                    yield alias.asname or alias.name, ast.ImportFrom(origin, [alias], 0)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, ast.ImportFrom(here, [ast.alias(name)], 0)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                yield name, ast.ImportFrom(here, [ast.alias(name)], 0)


def _standing_alone(node: ast.FunctionDef, summary: str, names: dict[str, ast.stmt]) -> str:
    function = next(iter(ast.parse(ast.unparse(node)).body))
    assert isinstance(function, ast.FunctionDef)
    function.body[0] = ast.Expr(ast.Constant(summary))
    used = {each.id for each in ast.walk(function) if isinstance(each, ast.Name)} - {function.name}
    needed = [ast.unparse(names[name]) for name in sorted(used & set(names))]
    return "\n".join([*needed, "", "", ast.unparse(function), ""])
