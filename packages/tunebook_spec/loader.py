"""From a file to a spec: YAML 1.2, profile overlay, overrides, and every problem with its line."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from tunebook_spec.consistency import Path_, gate_problems, inconsistencies
from tunebook_spec.errors import Problem, SpecError
from tunebook_spec.evaluation import FileSet, Gate, GatesFile, InlineSet, SuiteSet, TaskSet, TextsSet
from tunebook_spec.spec import Spec

Root = TypeVar("Root", bound=BaseModel)


@dataclass(frozen=True)
class LoadedSpec:
    """A valid spec, and where in its file each part of it stands."""

    spec: Spec
    path: Path
    profile: str | None
    lines: Mapping[Path_, int]

    def problem(self, where: Path_, message: str) -> Problem:
        """A problem found later (a missing file, say), placed as precisely as the file allows."""
        return Problem(_dotted(where), message, _line(self.lines, where))

    def relative(self, path: str) -> Path:
        """A path of the spec, which is relative to the spec's folder."""
        return (self.path.parent / Path(path).expanduser()).resolve()


def load(path: Path, *, profile: str | None = None, overrides: Sequence[str] = ()) -> LoadedSpec:
    """Read a spec under a profile and `--set` overrides.

    Every profile of the file is checked, not only the chosen one, and all problems are reported at once.

    Raises:
        SpecError: with every problem, its line and the way out.
    """
    document, lines = _read(path)
    profiles = document.pop("profiles", None)
    profiles = {} if profiles is None else profiles
    if not isinstance(profiles, dict) or not all(isinstance(o, dict) for o in profiles.values()):
        message = "Input should be a map from profile names to overlays"
        raise SpecError(str(path), (Problem("profiles", message, _line(lines, ("profiles",))),))
    if profile is not None and profile not in profiles:
        known = ", ".join(sorted(map(str, profiles))) or "none"
        raise SpecError(str(path), (Problem("profiles", f"no profile {profile!r}; this spec has: {known}"),))
    problems: dict[str, Problem] = {}
    specs: dict[str | None, Spec] = {}
    origins: dict[str | None, Mapping[Path_, int]] = {}
    candidates = [profile, *(name for name in profiles if name != profile)]
    for candidate in candidates if profile or not profiles else [None, *profiles]:
        merged, where = _overlay(document, lines, candidate, profiles)
        if candidate == profile:
            merged = deepcopy(merged)  # what it shares with the other profiles stays as it is
            for override in overrides:
                _override(merged, where, override, path)
        try:
            specs[candidate] = _validate(merged, where, path)
            origins[candidate] = where
        except SpecError as error:
            problems.update({str(problem): problem for problem in error.problems})
    if problems:
        ordered = sorted(problems.values(), key=lambda problem: problem.line or 0)
        raise SpecError(str(path), tuple(ordered))
    return LoadedSpec(specs[profile], path, profile, origins[profile])


def load_file(root: type[Root], path: Path, expected: str) -> tuple[Root, Callable[[Path_, str], Problem]]:
    """A YAML file of another kind, read as strictly as a spec, and what places a later problem in it.

    Args:
        root: What it holds.
        path: YAML.
        expected: Said of a file that is no map.

    Raises:
        SpecError: with every problem, its line and the way out.
    """
    document, lines = _read(path, expected)
    found = _parse(root, document, lines, path)
    return found, lambda at, message: Problem(_dotted(at), message, _line(lines, at))


def load_gates(path: Path, scored: Mapping[str, Collection[str]]) -> tuple[Gate, ...]:
    """Gates of a file of their own, `gates:` as under a spec's `evaluation`.

    Args:
        path: YAML.
        scored: By metric, the arms that a gate on it can name.

    Raises:
        SpecError: with every problem, its line and the way out.
    """
    file, problem = load_file(GatesFile, path, "a gates file is a map with one key, `gates`")
    problems = tuple(problem(at, message) for at, message in gate_problems(file.gates, scored))
    if problems:
        raise SpecError(str(path), problems)
    return file.gates


def _read(
    path: Path, expected: str = "a spec is a map that starts with `version: 1`"
) -> tuple[dict[str, Any], dict[Path_, int]]:
    yaml = YAML(typ="rt")
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError(str(path), (Problem("", "no such file"),)) from None
    except IsADirectoryError:
        raise SpecError(str(path), (Problem("", "is a folder, not a YAML file"),)) from None
    except UnicodeDecodeError as error:
        raise SpecError(str(path), (Problem("", f"is not UTF-8 at byte {error.start}"),)) from None
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        detail = str(error.problem).split(" with value")[0].replace("found duplicate key", "duplicate key")
        raise SpecError(str(path), (Problem("", f"{detail}; keep one of the two", line),)) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        column = f" (column {mark.column + 1})" if mark else ""
        message = f"is not YAML: {error.problem or error.context}{column}"
        raise SpecError(str(path), (Problem("", message, mark.line + 1 if mark else None),)) from None
    except YAMLError as error:
        raise SpecError(str(path), (Problem("", f"is not YAML: {str(error).splitlines()[0]}"),)) from None
    if not isinstance(tree, CommentedMap):
        kind = {CommentedSeq: "a list", type(None): "empty"}.get(type(tree), f"a {type(tree).__name__}")
        raise SpecError(str(path), (Problem("", f"is {kind}; {expected}"),))
    lines: dict[Path_, int] = {}
    plain = _plain(tree, (), lines)
    return plain, lines


def _plain(node: Any, at: Path_, lines: dict[Path_, int]) -> Any:
    """The tree as plain Python values; `lines` gets the 1-based line of every key and item."""
    if isinstance(node, CommentedMap):
        for key in node:
            lines[(*at, key)] = node.lc.key(key)[0] + 1 if key in (node.lc.data or {}) else lines.get(at, 1)
        return {key: _plain(value, (*at, key), lines) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        for index in range(len(node)):
            lines[(*at, index)] = node.lc.item(index)[0] + 1
        return [_plain(value, (*at, index), lines) for index, value in enumerate(node)]
    for plain in (bool, int, float, str):
        if isinstance(node, plain):
            return plain(node)
    return node if node is None else str(node)


def _overlay(
    document: dict[str, Any], lines: Mapping[Path_, int], profile: str | None, profiles: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[Path_, int]]:
    """The document under a profile: maps merge, lists replace, a changed `kind` replaces the whole object."""
    where = dict(lines)

    def move(source: Path_, target: Path_) -> None:
        for key in [key for key in where if key[: len(target)] == target and len(key) > len(target)]:
            del where[key]
        for key, line in lines.items():
            if key[: len(source)] == source:
                where[(*target, *key[len(source) :])] = line

    def merge(below: Any, above: Any, source: Path_, target: Path_) -> Any:
        replaces = not (isinstance(below, dict) and isinstance(above, dict))
        replaces = replaces or ("kind" in above and above["kind"] != below.get("kind"))
        if replaces:
            move(source, target)
            return above
        merged = dict(below)
        for key, value in above.items():
            merged[key] = merge(below.get(key), value, (*source, key), (*target, key))
        return merged

    overlay = profiles[profile] if profile is not None else {}
    return merge(document, overlay, ("profiles", profile or ""), ()), where


def _override(document: dict[str, Any], where: dict[Path_, int], override: str, path: Path) -> None:
    """Apply one `a.b.0.c=value`; the value is YAML."""
    dotted, equals, text = override.partition("=")
    way_out = "write --set method.learning_rate=1e-4"
    if not equals or not dotted:
        raise SpecError(str(path), (Problem(f"--set {override}", f"is not FIELD=VALUE; {way_out}"),))
    keys: list[str | int] = [int(part) if part.isdigit() else part for part in dotted.split(".")]
    node: Any = document
    for depth, key in enumerate(keys[:-1]):
        if isinstance(node, list) and isinstance(key, int) and key < len(node):
            node = node[key]
        elif isinstance(node, dict):
            node = node.setdefault(key, {})
        else:
            message = f"nothing at {_dotted(tuple(keys[: depth + 1]))!r} to set a field of"
            raise SpecError(str(path), (Problem(f"--set {dotted}", message),))
    last = keys[-1]
    fits = isinstance(node, dict) or (isinstance(node, list) and isinstance(last, int) and last < len(node))
    if not fits:
        raise SpecError(str(path), (Problem(f"--set {dotted}", f"{last!r} is not a field there"),))
    try:
        node[last] = _plain(YAML(typ="rt").load(text), (), {})
    except YAMLError as error:
        raise SpecError(str(path), (Problem(f"--set {dotted}", f"value is not YAML: {error}"),)) from None
    for key_ in [key_ for key_ in where if key_[: len(keys)] == tuple(keys)]:
        del where[key_]


def _validate(document: dict[str, Any], where: Mapping[Path_, int], path: Path) -> Spec:
    spec = _parse(Spec, document, where, path)
    problems = tuple(Problem(_dotted(at), message, _line(where, at)) for at, message in inconsistencies(spec))
    if problems:
        raise SpecError(str(path), problems)
    return spec


def _parse(root: type[Root], document: dict[str, Any], where: Mapping[Path_, int], path: Path) -> Root:
    try:
        return root.model_validate(document)
    except ValidationError as error:
        # A sequence whose items are all wrong also counts as empty: its items tell more.
        details = [d for d in error.errors() if not (d["type"] == "too_short" and d["input"])]
        problems = tuple(_problem(dict(detail), document, where, root) for detail in details)
        raise SpecError(str(path), problems) from None


def _problem(
    detail: dict[str, Any], document: Any, where: Mapping[Path_, int], root: type[BaseModel]
) -> Problem:
    at, model = _locate(detail["loc"], document, root)
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        message = "unknown key"
        near = difflib.get_close_matches(str(at[-1]), model.model_fields, n=1) if model else []
        known = ", ".join(model.model_fields) if model else ""
        message += f"; did you mean {near[0]!r}?" if near else f"; known here: {known}" if known else ""
    elif detail["type"] not in ("missing", "unknown_set", "value_error"):
        message += f" (got {detail['input']!r})"
    elif detail["type"] == "missing":
        message = "is required"
    return Problem(_dotted(at), message, _line(where, at))


def _locate(
    loc: Sequence[str | int], document: Any, root: type[BaseModel]
) -> tuple[Path_, type[BaseModel] | None]:
    """The path in the file of a pydantic location (which also names union members), and the model there."""
    at: Path_ = ()
    node: Any = document
    model: type[BaseModel] | None = root
    for index, part in enumerate(loc):
        steps = (isinstance(node, dict) and part in node) or (
            isinstance(node, list) and isinstance(part, int)
        )
        last = index == len(loc) - 1
        if not steps and not (last and part not in _MEMBERS):
            continue
        if last:
            at = (*at, part)
            break
        node = node[part]
        at = (*at, part)
        here = [member for pattern, member in _index(root) if _fits(pattern, at)]
        model = here[-1] if here else model
        if isinstance(node, dict):
            model = _member(here, node) or model
    return at, model


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that an annotation names, through unions, containers and Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models(argument)


@cache
def _index(model: type[BaseModel], at: Path_ = ()) -> tuple[tuple[Path_, type[BaseModel]], ...]:
    """Every model within a model, by where it may stand; `*` is any key or item."""
    found: list[tuple[Path_, type[BaseModel]]] = []
    for name, field in model.model_fields.items():
        annotation = field.annotation
        nested = "*" if getattr(annotation, "__origin__", None) in (tuple, dict) else None
        for member in _models(annotation):
            inner = (*at, name, nested) if nested else (*at, name)
            found += [(inner, member), *_index(member, inner)]
    return tuple(found)


def _fits(pattern: Path_, at: Path_) -> bool:
    return len(pattern) == len(at) and all(p in ("*", a) for p, a in zip(pattern, at, strict=True))


def _member(here: Sequence[type[BaseModel]], node: dict[str, Any]) -> type[BaseModel] | None:
    """Of the models that may stand here, the one whose `kind` is given, else the one with most known keys."""
    kinds = [m for m in here if "kind" in m.model_fields and node.get("kind") in _literal(m, "kind")]
    ranked = sorted(kinds or here, key=lambda member: -len(set(node) & set(member.model_fields)))
    return ranked[0] if ranked else None


def _literal(model: type[BaseModel], field: str) -> tuple[Any, ...]:
    return tuple(getattr(model.model_fields[field].annotation, "__args__", ()))


_MEMBERS = {kind for _, m in _index(Spec) if "kind" in m.model_fields for kind in _literal(m, "kind")} | {
    member.__name__ for member in (TaskSet, SuiteSet, InlineSet, FileSet, TextsSet)
}


def _dotted(at: Path_) -> str:
    return ".".join(map(str, at))


def _line(lines: Mapping[Path_, int], at: Path_) -> int | None:
    """The line of the nearest enclosing part that has one."""
    return next((lines[at[:end]] for end in range(len(at), 0, -1) if at[:end] in lines), None)
