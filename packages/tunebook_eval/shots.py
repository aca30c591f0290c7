"""Training rows that are shown in the prompt: what prompting alone can do."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunebook_data.rows import Row, identity, read_rows
from tunebook_eval.sets import Item
from tunebook_model.conversation import Message
from tunebook_spec.errors import DataError


@dataclass(frozen=True)
class Prefix:
    """Solved examples, the same for every prompt of a set, so that an engine reads them once."""

    examples: tuple[Message, ...]

    def put_into(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The examples after the system message, before what is asked."""
        system = [message for message in messages[:1] if message["role"] == "system"]
        return (*system, *self.examples, *messages[len(system) :])


Shots = Mapping[str, Prefix]
"""By set."""


def choose_shots(num: int, items: Sequence[Item], data_dir: Path, seed: int | None) -> Shots:
    """For each set the same `num` training rows of its task, drawn by seed, of different groups if possible.

    Raises:
        DataError: a task has fewer training rows.
    """
    train = read_rows(data_dir / "train.jsonl")
    tasks = {item.set: item.row.task for item in items if item.row is not None}
    return {
        name: _choose(num, task, [row for row in train if row.task == task], seed)
        for name, task in tasks.items()
    }


def _choose(num: int, task: str, rows: Sequence[Row], seed: int | None) -> Prefix:
    # A weighted source repeats its rows: the first of equal ones stands for all.
    rows = list({identity(row.task, row.messages, row.tools): row for row in reversed(rows)}.values())[::-1]
    if len(rows) < num:
        raise DataError(
            f"task {task!r} has {len(rows)} training rows and `evaluation.few_shot` asks for {num}"
        )
    drawn = random.Random(f"{seed}/{task}").sample(rows, len(rows))
    one_per_group = list({row.group: row for row in reversed(drawn)}.values())[::-1]
    rest = [row for row in drawn if row not in one_per_group] if len(one_per_group) < num else []
    chosen = [*one_per_group, *rest][:num]
    return Prefix(tuple(m for row in chosen for m in row.messages if m["role"] != "system"))
