"""Training rows that are shown in the prompt: what prompting alone can do."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunebook_data.near_duplicates import said
from tunebook_data.rows import Row, identity, read_rows
from tunebook_eval.sets import Item
from tunebook_eval.similarity import TfIdf
from tunebook_model.conversation import Message
from tunebook_spec.errors import DataError
from tunebook_spec.evaluation import FewShot


@dataclass(frozen=True)
class Prefix:
    """Solved examples, in the order in which they are shown."""

    rows: tuple[Row, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(row.id for row in self.rows)

    def put_into(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The examples after the system message, before what is asked."""
        system = [message for message in messages[:1] if message["role"] == "system"]
        examples = (m for row in self.rows for m in row.messages if m["role"] != "system")
        return (*system, *examples, *messages[len(system) :])


NO_SHOTS = Prefix()
Shots = Mapping[tuple[str, str], Prefix]
"""By set and item."""


def choose_shots(few_shot: FewShot, items: Sequence[Item], data_dir: Path, seed: int | None) -> Shots:
    """For each item training rows of its task: the same drawn by seed, or those of the most similar prompts.

    Raises:
        DataError: a task has fewer training rows.
    """
    train = read_rows(data_dir / "train.jsonl")
    by_task: dict[str, list[Item]] = {}
    for item in items:
        if item.row is not None:
            by_task.setdefault(item.row.task, []).append(item)
    shots: dict[tuple[str, str], Prefix] = {}
    for task, of_task in by_task.items():
        rows = _distinct(task, [row for row in train if row.task == task], few_shot.k)
        if few_shot.choose == "similar":
            shots |= _similar(few_shot.k, rows, of_task)
        else:
            drawn = _drawn(few_shot.k, rows, random.Random(f"{seed}/{task}"))
            shots |= {(item.set, item.id): drawn for item in of_task}
    return shots


def _distinct(task: str, rows: Sequence[Row], k: int) -> list[Row]:
    # A weighted source repeats its rows: the first of equal ones stands for all.
    rows = list({identity(row.task, row.messages, row.tools): row for row in reversed(rows)}.values())[::-1]
    if len(rows) < k:
        raise DataError(f"task {task!r} has {len(rows)} training rows and `evaluation.few_shot` asks for {k}")
    return rows


def _drawn(k: int, rows: Sequence[Row], random: random.Random) -> Prefix:
    """Rows of different groups, if there are enough."""
    drawn = random.sample(rows, len(rows))
    one_per_group = list({row.group: row for row in reversed(drawn)}.values())[::-1]
    rest = [row for row in drawn if row not in one_per_group] if len(one_per_group) < k else []
    return Prefix(tuple([*one_per_group, *rest][:k]))


def _similar(k: int, rows: Sequence[Row], items: Sequence[Item]) -> Shots:
    """The likest right before what is asked, as in Liu et al. 2022 (arXiv 2101.06804)."""
    prompts = TfIdf.of([_asked(row.messages[:-1]) for row in rows])

    def shown(item: Item) -> Prefix:
        return Prefix(tuple(rows[n] for n in reversed(prompts.nearest(_asked(item.messages), k))))

    return {(item.set, item.id): shown(item) for item in items}


def _asked(prompt: Sequence[Message]) -> str:
    return "\n".join(said(prompt))
