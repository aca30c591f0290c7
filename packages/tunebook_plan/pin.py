"""Hub models of a spec at the commit that the hub has now, written into the spec's own text."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from tunebook_spec import LoadedSpec, load
from tunebook_spec.base_model import HubModel
from tunebook_spec.errors import Problem

COMMIT = re.compile(r"[0-9a-f]{40}")
_UNPINNED = "{revision!r} of {repo} is no commit, and may be another model tomorrow"
_WAY_OUT = "`tunebook pin {path}` writes the commit; TUNEBOOK_ALLOW_UNPINNED=true runs it as it is"

CommitOf = Callable[[str, str], str]
"""Repository and revision to the commit."""


@dataclass(frozen=True)
class Pin:
    """One hub model of a spec's file."""

    where: str
    line: int
    repo: str
    before: str
    """The revision that stood there; `main` where none did."""
    commit: str

    @property
    def is_new(self) -> bool:
        return self.before != self.commit


def is_pinned(model: HubModel) -> bool:
    return COMMIT.fullmatch(model.revision) is not None


def unpinned(loaded: LoadedSpec) -> Iterator[Problem]:
    """Models that a run of this spec would take from the hub at what is no commit."""
    spec = loaded.spec
    used = {("base_model",): spec.base_model} | {("models", role): spec.models[role] for role in spec.roles}
    for at, model in used.items():
        if isinstance(model, HubModel) and not is_pinned(model):
            message = _UNPINNED.format(revision=model.revision, repo=model.repo)
            yield loaded.problem((*at, "revision"), f"{message}: {_WAY_OUT.format(path=loaded.path)}")


def pin(path: Path, commit_of: CommitOf) -> tuple[Pin, ...]:
    """Write the commit of every hub model, of profiles too, into a spec's file; all else stays as it is.

    What is a commit already is not asked for again.

    Raises:
        SpecError: the spec is not valid.
        ModelError: the hub does not answer for one of them; the file stays as it was.
    """
    load(path)
    text = path.read_text(encoding="utf-8")
    edits: list[tuple[int, int, str]] = []
    pins = []
    for where, node in _hub_models(YAML().compose(text)):
        repo, revision = _scalar(node, "repo"), _scalar(node, "revision")
        assert repo is not None
        before = str(revision.value) if revision else "main"
        commit = before if COMMIT.fullmatch(before) else commit_of(str(repo.value), before)
        line = (revision or repo).start_mark.line + 1
        pins.append(Pin(where, line, str(repo.value), before, commit))
        if revision is not None:
            edits.append((revision.start_mark.index, revision.end_mark.index, commit))
        else:
            edits.append(_inserted(node, repo, commit, text))
    for start, end, written in sorted(edits, reverse=True):
        text = text[:start] + written + text[end:]
    if any(each.is_new for each in pins):
        part = path.with_name(f".{path.name}.{os.getpid()}")
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    return tuple(pins)


def _hub_models(root: MappingNode) -> Iterator[tuple[str, MappingNode]]:
    """Each once, however many aliases lead to it."""
    seen: set[int] = set()
    profiles = _child(root, "profiles")
    overlays = [("", root), *((f"profiles.{name}.", node) for name, node in _maps(profiles))]
    for prefix, overlay in overlays:
        named = [("base_model", _child(overlay, "base_model"))]
        named += [(f"models.{role}", node) for role, node in _maps(_child(overlay, "models"))]
        for name, node in named:
            if not isinstance(node, MappingNode) or node.start_mark.index in seen:
                continue
            seen.add(node.start_mark.index)
            kind = _scalar(node, "kind")
            if kind is not None and kind.value == "hub":
                yield prefix + name, node


def _maps(node: Node | None) -> Iterator[tuple[str, MappingNode]]:
    for key, value in node.value if isinstance(node, MappingNode) else ():
        if isinstance(value, MappingNode):
            yield str(key.value), value


def _child(node: MappingNode, name: str) -> Node | None:
    return next((value for key, value in node.value if key.value == name), None)


def _scalar(node: MappingNode, name: str) -> ScalarNode | None:
    found = _child(node, name)
    return found if isinstance(found, ScalarNode) else None


def _inserted(node: MappingNode, repo: ScalarNode, commit: str, text: str) -> tuple[int, int, str]:
    """A revision after the repository: in the same braces, or on a line of its own."""
    end = repo.end_mark.index
    if node.flow_style:
        return end, end, f", revision: {commit}"
    line_end = text.find("\n", end)
    line_end = len(text) if line_end < 0 else line_end
    indent = " " * next(key for key, _ in node.value if key.value == "repo").start_mark.column
    return line_end, line_end, f"\n{indent}revision: {commit}"
