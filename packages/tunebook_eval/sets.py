"""What each evaluation set asks. The one module that reads test rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tunebook_data.rows import Row, read_rows
from tunebook_data.source_files import public_name
from tunebook_data.suite_files import SUITES, read_suites
from tunebook_data.suites import SuiteItem, load_suite, load_texts
from tunebook_eval.inputs import PromptSet
from tunebook_model.conversation import FunctionTool, Message
from tunebook_spec.errors import DataError

ItemKey = tuple[str, str, int | None]
"""Set, id, and which rewording."""


@dataclass(frozen=True)
class Item:
    """One question of one set, with all that scoring will need."""

    id: str
    """Unique in the set and the same in every arm, so that arms are compared question by question."""
    set: str
    group: str
    """Items of one group are alike; statistics draw whole groups."""
    messages: tuple[Message, ...] = ()
    """What is asked; empty for a fixed text."""
    tools: tuple[FunctionTool, ...] = ()
    """What the model may call."""
    json_schema: Mapping[str, Any] | None = None
    """What the answer must match as it is made; None: it is free."""
    max_tokens: int = 0
    reference: str | None = None
    """The expected answer of a test row, or the fixed text."""
    expected: tuple[str, ...] = ()
    """Strings of which the answer must hold one."""
    stratum: str | None = None
    """Part of the set that is also reported alone."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    row: Row | None = None
    """The test row, for rules that answer without a model."""
    learns_from: str | None = None
    """The task whose training rows few-shot prompts show and rules learn from; None where `row` is."""
    reworded: int | None = None
    """Which rewording of the question it is; None: the question as it is."""

    @property
    def key(self) -> ItemKey:
        return self.set, self.id, self.reworded

    @property
    def question(self) -> str:
        return self.messages[-1]["content"] if self.messages else (self.reference or "")


def build_items(sets: Mapping[str, PromptSet], data_dir: Path) -> list[Item]:
    """Every item of the sets, in the order of the sets.

    Args:
        sets: By name.
        data_dir: What `prepare` left.

    Raises:
        DataError: a set has no items.
    """
    tasks = {each.task for each in sets.values() if each.task is not None}
    rows = [row for row in read_rows(data_dir / "test.jsonl") if row.task in tasks] if tasks else []
    suites = read_suites(data_dir / SUITES) if any(each.file for each in sets.values()) else {}
    items = []
    for name, each in sets.items():
        of_set = list(_items(name, each, rows, suites))
        if not of_set:
            what = f"task {each.task!r} left no test rows; raise `split.test` or add rows"
            raise DataError(f"evaluation set {name!r} is empty: {what if each.task else 'it has no items'}")
        items += of_set
    return items


def reword(items: Sequence[Item], sets: Mapping[str, PromptSet]) -> list[Item]:
    """The rewordings of a part of each set's questions: the same part whatever the order of the items."""
    made = []
    for name, each in sets.items():
        if each.rewordings is not None:
            of_set = sorted((item for item in items if item.set == name), key=_lot)[: each.rewordings.rows]
            made += [
                replace(item, messages=_framed(item.messages, frame), reworded=number)
                for item in of_set
                for number, frame in enumerate(each.rewordings.frames)
            ]
    return made


def _lot(item: Item) -> str:
    return hashlib.sha256(item.id.encode()).hexdigest()


def _framed(messages: Sequence[Message], frame: str) -> tuple[Message, ...]:
    """With the last thing that the user says put into the frame."""
    last = max(n for n, message in enumerate(messages) if message["role"] == "user")
    content = frame.replace("{question}", messages[last]["content"])
    asked: Message = {**messages[last], "content": content}
    return (*messages[:last], asked, *messages[last + 1 :])


def _items(
    name: str, each: PromptSet, rows: Sequence[Row], suites: Mapping[str, Sequence[SuiteItem]]
) -> Iterator[Item]:
    if each.task is not None:
        yield from (_of_row(name, row, each) for row in rows if row.task == each.task)
    elif each.suite is not None:
        yield from (_of_question(name, item, each.max_tokens) for item in load_suite(each.suite))
    elif each.file is not None:
        yield from (_of_question(name, item, each.max_tokens) for item in suites[public_name(each.file)])
    elif each.items is not None:
        for number, own in enumerate(each.items):
            id = f"{number:04}"
            given = own.expected_contains
            expected = (given,) if isinstance(given, str) else given
            yield _of_question(name, SuiteItem(id, own.q, expected, id), each.max_tokens)
    elif each.texts is not None:
        for number, text in enumerate(load_texts(each.texts)):
            yield Item(f"{number:04}", name, f"{number:04}", reference=text)


def _of_row(name: str, row: Row, each: PromptSet) -> Item:
    return Item(
        id=row.id,
        set=name,
        group=row.group,
        messages=row.messages[:-1],
        tools=row.tools,
        json_schema=each.json_schema,
        max_tokens=each.max_tokens,
        reference=row.reference,
        stratum=row.meta.get("stratum"),
        meta=row.meta,
        row=row,
        learns_from=each.learns_from or row.task,
    )


def _of_question(name: str, item: SuiteItem, max_tokens: int) -> Item:
    asked: Message = {"role": "user", "content": item.prompt}
    meta = {"choices": list(item.choices)} if item.choices else {}
    return Item(
        item.id, name, item.group, (asked,), max_tokens=max_tokens, expected=item.expected_contains, meta=meta
    )
