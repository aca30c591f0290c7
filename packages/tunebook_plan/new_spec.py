"""A spec of one's own, made from a scenario that ships, with a few of its rows as a pattern."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML

from tunebook_data.rows import Row
from tunebook_data.sources import read_source
from tunebook_eval.headline import headline
from tunebook_plan.shipped import shipped_spec
from tunebook_spec import Spec, load
from tunebook_spec.data import AnySource
from tunebook_spec.errors import InputError
from tunebook_spec.evaluation import TaskSet
from tunebook_spec.fields import Name

NUM_ROWS = 12
PROBLEM = "Say in a sentence what a general model gets wrong here."
_JUDGED = ("judge", "pairwise")
_HEAD = """\
{schema}# Made from {like} by `tunebook init`. What to put in, in this order:
# 1. {rows}: your rows in place of these {num}, 200 or more; a line each, {{"group": ..., "messages": [...]}}.
#    Rows that are alike (of one customer, form, template, topic) share a `group`, and so a side of the split.
# 2. problem, and data.system: what the model is told in every prompt.
# 3. evaluation: what an answer is scored by (metrics, schema, rules), and max_tokens: your longest answer.
# 4. needs: what only you know; `tunebook advise {name}` weighs it.
# Then: tunebook data check {name} --profile local; make scenario SPEC={name}
"""


def new_spec(name: str, like: str, folder: Path, assets_dir: Path) -> tuple[Path, Path]:
    """Write FOLDER/NAME.yaml and FOLDER/data/NAME.jsonl; both paths.

    Of the scenario stay its main task with its metrics, its method, base models and profiles. Left out are
    its other tasks, judges with their golden answers, floors that its own rows were measured by, what tells
    the form of its answers in a suite, and needs that are not of the task.

    Raises:
        InputError: the name is none, one of the files is there already, or no such scenario ships.
    """
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise InputError(
            f"{name!r} is no name of a scenario: small letters, digits and _, as my_tickets"
        ) from None
    spec_file, rows_file = folder / f"{name}.yaml", folder / "data" / f"{name}.jsonl"
    shipped = shipped_spec(like)
    for path in (spec_file, rows_file):
        if path.exists():
            raise InputError(
                f"{path} is there already and stays as it is; choose another name, or move it away"
            )
    loaded = load(shipped)
    task = _main_task(loaded.spec)
    source = next(each for each in loaded.spec.data.sources if each.task == task)
    rows = list(islice(_some_rows(source, shipped.parent, assets_dir, loaded.spec.seed), NUM_ROWS))
    document = YAML(typ="safe").load(shipped.read_text(encoding="utf-8"))
    document = json.loads(json.dumps(document))  # what YAML aliases share becomes each one's own
    profiles = document.pop("profiles", {})
    adapted = [_adapt(each, name, task, loaded.spec) for each in (document, *profiles.values())]
    document.update(name=name, problem=PROBLEM)
    document["data"]["sources"] = [_source(name, source)]
    if loaded.spec.needs.teach:
        document["needs"] = {"teach": list(loaded.spec.needs.teach)}
    rows_file.parent.mkdir(parents=True, exist_ok=True)
    rows_file.write_text("".join(map(_line, rows)), encoding="utf-8")
    head = _head(name, like, folder, len(rows))
    text = _dump({**document, "profiles": dict(zip(profiles, adapted[1:], strict=True))})
    spec_file.write_text(head + text, encoding="utf-8")
    return spec_file, rows_file


def _main_task(spec: Spec) -> str:
    of_headline = spec.evaluation.sets[headline(spec).partition(".")[0]]
    assert isinstance(of_headline, TaskSet)
    return of_headline.task


def _some_rows(source: AnySource, spec_dir: Path, assets_dir: Path, seed: int) -> Iterator[Row]:
    """The first of each group."""
    seen: set[str] = set()
    for part in read_source(source, system=None, spec_dir=spec_dir, assets_dir=assets_dir, seed=seed):
        for item in part.items:
            if isinstance(item, Row) and item.group not in seen:
                seen.add(item.group)
                yield item


def _line(row: Row) -> str:
    fields = {
        "group": row.group,
        "messages": row.messages,
        **{k: v for k, v in row.meta.items() if k != "group"},
    }
    return json.dumps(fields, ensure_ascii=False) + "\n"


def _source(name: str, source: AnySource) -> dict[str, Any]:
    split = {"group_by": "group", "test": source.split.test, "validation": source.split.validation}
    path = f"data/{name}.jsonl"
    return {"kind": "file", "path": path, "format": "messages", "task": name, "split": split}


def _adapt(part: dict[str, Any], name: str, task: str, spec: Spec) -> dict[str, Any]:
    """A spec, or a profile of it, about one task under a new name; changed in place."""
    data, evaluation = part.get("data", {}), part.get("evaluation", {})
    data.pop("sources", None)
    data.pop("decontaminate", None)
    if schemas := data.get("checks", {}).get("answer_schema"):
        data["checks"]["answer_schema"] = {name: schemas[task]} if task in schemas else {}
    for key in ("models", "needs"):
        part.pop(key, None)
    sets = evaluation.get("sets", {})
    for key, each in list(sets.items()):
        of_task = (each or {}).get("task") or getattr(spec.evaluation.sets.get(key), "task", None)
        if of_task not in (None, task):
            del sets[key]
            continue
        if each is None:  # a profile leaves it out
            continue
        if "task" in each:
            each["task"] = name
        if "metrics" in each:
            # A metric of a suite that has options says what the shipped task's answers look like.
            each["metrics"] = [
                m for m in each["metrics"] if not _is_judged(m) and (of_task or isinstance(m, str))
            ]
    kept = set(spec.evaluation.sets) & _kept(spec, task) | set(sets)
    if "gates" in evaluation:
        evaluation["gates"] = [
            gate for gate in map(_gate, evaluation["gates"]) if gate and _stays(gate, kept)
        ]
    return part


def _kept(spec: Spec, task: str) -> set[str]:
    """Sets of the scenario that are not about another task."""
    return {key for key, each in spec.evaluation.sets.items() if getattr(each, "task", task) == task}


def _is_judged(metric: Any) -> bool:
    return isinstance(metric, dict) and metric.get("kind") in _JUDGED


def _stays(gate: dict[str, Any], kept: set[str]) -> bool:
    of_set, _, metric = str(gate["metric"]).partition(".")
    return of_set in kept and metric.partition(".")[0] not in _JUDGED


def _gate(gate: dict[str, Any]) -> dict[str, Any] | None:
    """A gain has to be one; a floor that other rows were measured by goes."""
    if "gain_over" in gate:
        return {**gate, "at_least": 0.0}
    return gate if "max_drop" in gate else None


def _head(name: str, like: str, folder: Path, num: int) -> str:
    has_schema = (folder / "scenario.schema.json").is_file()
    schema = "# yaml-language-server: $schema=./scenario.schema.json\n" if has_schema else ""
    return _HEAD.format(schema=schema, like=like, rows=f"data/{name}.jsonl", num=num, name=name)


def _dump(document: dict[str, Any]) -> str:
    order = ("version", "name", "problem", "base_model", "data", "method", "evaluation", "needs", "profiles")
    yaml = YAML()
    yaml.default_flow_style = None  # what holds no other collection stands in one line
    yaml.width = 110
    yaml.indent(mapping=2, sequence=4, offset=2)
    stream = io.StringIO()
    yaml.dump({key: document[key] for key in order if key in document}, stream)
    return stream.getvalue()
