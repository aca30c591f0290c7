"""The answers of one arm, as they are kept: everything that scoring and reporting need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from pydantic import Field, ValidationError

from tunebook_data.baselines import Baseline
from tunebook_eval.sets import Item, ItemKey
from tunebook_inference.generator import Completion, FinishReason
from tunebook_spec.errors import StageError
from tunebook_spec.fields import Frozen

FILE = "answers.jsonl"
SUMMARY = "arm.json"


class Answer(Frozen):
    set: str
    item: str
    """The item's id, the same in every arm."""
    rule: str | None = None
    """Which rule answered, in the arm without a model."""
    reworded: int | None = None
    """Which rewording of the question it answers; none: the question as it is."""
    others: tuple[str | None, ...] = ()
    """What was answered to its rewordings, none where that failed. In files they are answers of their own."""
    is_reference: bool = False
    """Of a rule that is shown beside the others and that nothing has to beat."""
    shots: tuple[str, ...] = ()
    """Ids of the training rows that were shown before the prompt, in this order."""
    question: str
    """The last message of the prompt; empty for a fixed text."""
    text: str
    finish_reason: FinishReason
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt's, those that the engine had read for an earlier prompt that began the same."""
    completion_tokens: int = 0
    error: str | None = None
    log_likelihood: float | None = None
    """Mean over the tokens of a fixed text."""
    reference: str | None
    expected: tuple[str, ...] = ()
    group: str
    stratum: str | None = None
    meta: dict[str, Any] = Field(default_factory=dict)

    @property
    def key(self) -> tuple[ItemKey, str | None]:
        """Unique in an arm."""
        return (self.set, self.item, self.reworded), self.rule


class Timed(Frozen):
    """How long the prompts of a set took, answered as one batch.

    Neither the engine's start nor answers that an earlier attempt left are in it.
    """

    num_answers: int
    """Failed ones, which take no time, are not counted."""
    seconds: float


class AnswerResult(Frozen):
    arm: str
    num_answers: int
    num_errors: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    """Of the attempt that finished, engine start included."""
    num_resumed: int
    """Answers that an earlier, killed attempt had left."""
    timed: dict[str, Timed]
    """By set of prompts, what the attempt that finished answered."""
    cost: float | None = None
    """Money, of a model elsewhere whose prices are known."""
    prices: tuple[float, float] | None = None
    """These: money for a million tokens of prompts, and of answers."""
    is_remote: bool = False
    """It ran elsewhere: its time is none of this machine's."""


def of_completion(item: Item, completion: Completion, shots: tuple[str, ...]) -> Answer:
    return Answer(
        shots=shots,
        question=item.question,
        text=completion.text,
        finish_reason=completion.finish_reason,
        prompt_tokens=completion.prompt_tokens,
        cached_tokens=completion.cached_tokens,
        completion_tokens=completion.completion_tokens,
        error=completion.error,
        **_facts(item),
    )


def of_rule(item: Item, baseline: Baseline, text: str) -> Answer:
    return Answer(
        rule=baseline.name,
        is_reference=baseline.is_reference,
        question=item.question,
        text=text,
        finish_reason="stop",
        **_facts(item),
    )


def of_text(item: Item, num_tokens: int, log_likelihood: float) -> Answer:
    return Answer(
        question="",
        text="",
        finish_reason="stop",
        prompt_tokens=num_tokens,
        log_likelihood=log_likelihood,
        **_facts(item),
    )


def _facts(item: Item) -> dict[str, Any]:
    """What later stages need of the item, so that they never read test rows."""
    return {
        "set": item.set,
        "item": item.id,
        "reworded": item.reworded,
        "reference": item.reference,
        "expected": item.expected,
        "group": item.group,
        "stratum": item.stratum,
        "meta": dict(item.meta),
    }


def encode(answer: Answer) -> bytes:
    return orjson.dumps(answer.model_dump(), option=orjson.OPT_APPEND_NEWLINE)


def read_answers(path: Path) -> list[Answer]:
    """Answers in file order, those to rewordings put to the answer to the question as it is.

    Raises:
        StageError: a line is not an answer.
    """
    answers = list(_decode(path, path.read_bytes()))
    others: dict[tuple[str, str], dict[int, str | None]] = {}
    for each in answers:
        if each.reworded is not None:
            said = None if each.error else each.text
            others.setdefault((each.set, each.item), {})[each.reworded] = said
    return [
        each.model_copy(update={"others": tuple(said for _, said in sorted(of_item.items()))})
        if (of_item := others.get((each.set, each.item)))
        else each
        for each in answers
        if each.reworded is None
    ]


def reopen(path: Path) -> list[Answer]:
    """Answers of a killed attempt; what failed in it and a half-written last line leave the file.

    What failed is asked again: an endpoint that was down may be up.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    kept = [each for each in _decode(path, content[: content.rfind(b"\n") + 1]) if each.error is None]
    if (left := b"".join(map(encode, kept))) != content:
        whole = path.with_suffix(".whole")
        whole.write_bytes(left)
        whole.replace(path)
    return kept


def _decode(path: Path, content: bytes) -> Iterator[Answer]:
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            yield Answer.model_validate_json(line)
        except ValidationError as error:
            raise StageError(f"{path}:{number}: not an answer; delete the file and run again") from error
