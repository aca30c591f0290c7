"""Training rows that are shown in the prompt: what prompting alone can do."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tunebook_data.checks import personal_data
from tunebook_data.near_duplicates import said
from tunebook_data.rows import Row, identity, read_rows
from tunebook_eval.inputs import AnswerInputs
from tunebook_eval.sets import Item, ItemKey
from tunebook_eval.similarity import TfIdf, best
from tunebook_model.conversation import Message
from tunebook_spec.errors import DataError
from tunebook_spec.evaluation import FewShot, Retrieval

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""A unit vector for each text; `tunebook_eval.embeddings` has it."""


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
Shots = Mapping[ItemKey, Prefix]
Nearest = Callable[[Sequence[str], Sequence[str]], list[list[int]]]
"""For each of the second the indices of those of the first that are most like it, by likeness."""


def choose_shots(
    inputs: AnswerInputs, items: Sequence[Item], data_dir: Path, embed: Embed | None = None
) -> Shots:
    """For each item training rows of its task: the same drawn by seed, or those of the likest prompts.

    Args:
        inputs: Says which of the two, or that rows are retrieved; or that none are shown.
        items: What is asked.
        data_dir: What `prepare` left.
        embed: For the arm that retrieves.

    Raises:
        DataError: a task has fewer training rows.
    """
    if (chosen := inputs.few_shot or inputs.retrieval) is None:
        return {}
    train = read_rows(data_dir / "train.jsonl")
    if inputs.personal_data not in (None, "allow"):
        train = [row for row in train if personal_data(row) is None]
    by_task: dict[str, list[Item]] = {}
    for item in items:
        if item.learns_from is not None:
            by_task.setdefault(item.learns_from, []).append(item)
    shots: dict[ItemKey, Prefix] = {}
    for task, of_task in by_task.items():
        rows = _distinct(task, [row for row in train if row.task == task], chosen, inputs.arm)
        if isinstance(chosen, Retrieval):
            assert embed is not None, "only an arm that retrieves embeds"
            shots |= _likest(rows, of_task, partial(_by_meaning, embed, chosen.k))
        elif chosen.choose == "similar":
            shots |= _likest(rows, of_task, partial(_by_words, chosen.k))
        else:
            drawn = _drawn(chosen.k, rows, random.Random(f"{inputs.seed}/{task}"))
            shots |= {item.key: drawn for item in of_task}
    return shots


def _distinct(task: str, rows: Sequence[Row], chosen: FewShot | Retrieval, arm: str) -> list[Row]:
    # A weighted source repeats its rows: the first of equal ones stands for all.
    rows = list({identity(row.task, row.messages, row.tools): row for row in reversed(rows)}.values())[::-1]
    if len(rows) < chosen.k:
        asks = f"`evaluation.{arm}` asks for {chosen.k}"
        raise DataError(f"task {task!r} has {len(rows)} training rows and {asks}")
    return rows


def _drawn(k: int, rows: Sequence[Row], random: random.Random) -> Prefix:
    """Rows of different groups, if there are enough."""
    drawn = random.sample(rows, len(rows))
    one_per_group = list({row.group: row for row in reversed(drawn)}.values())[::-1]
    rest = [row for row in drawn if row not in one_per_group] if len(one_per_group) < k else []
    return Prefix(tuple([*one_per_group, *rest][:k]))


def _likest(rows: Sequence[Row], items: Sequence[Item], nearest: Nearest) -> Shots:
    """The likest right before what is asked, as in Liu et al. 2022 (arXiv 2101.06804)."""
    prompts = [_asked(row.messages[:-1]) for row in rows]
    found = nearest(prompts, [_asked(item.messages) for item in items])
    return {
        item.key: Prefix(tuple(rows[n] for n in reversed(of_item)))
        for item, of_item in zip(items, found, strict=True)
    }


def _by_words(k: int, texts: Sequence[str], asked: Sequence[str]) -> list[list[int]]:
    index = TfIdf.of(texts)
    return [index.nearest(each, k) for each in asked]


def _by_meaning(embed: Embed, k: int, texts: Sequence[str], asked: Sequence[str]) -> list[list[int]]:
    vectors = embed(texts)
    return [best(vectors @ each, k) for each in embed(asked)]


def _asked(prompt: Sequence[Message]) -> str:
    return "\n".join(said(prompt))
