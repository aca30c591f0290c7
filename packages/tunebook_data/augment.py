"""Variations of training rows, written by a teacher in the style of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from tunebook_data.answer_schema import Schema
from tunebook_data.decontaminate import HeldOut
from tunebook_data.generated import (
    Candidate,
    Provenance,
    Written,
    accept,
    conversation_as_json,
    counts_of,
    failures,
    may_be_shown,
    refuse_all_failed,
    uses_tools,
)
from tunebook_data.inputs import PrepareInputs
from tunebook_data.rejects import write_listing
from tunebook_data.rows import Row
from tunebook_data.split import cap_rows
from tunebook_data.structured import Question, Reply, ask_json
from tunebook_data.workers import HERE, Workers
from tunebook_inference.supporting import SupportingModel
from tunebook_model.conversation import Message, is_learnt
from tunebook_model.render import Renderer
from tunebook_run.progress import Advance
from tunebook_spec.data import Augment, Dedup

_INSTRUCTIONS = """\
You write training data for a language model. You are given one example: a conversation between a user and \
an assistant, as JSON, with the instructions that the assistant follows, if it has any.

Write {num} variations of it. Each is a new conversation of {exchanges}, as a real user might have it.
- Keep the style: the tone, the format and about the length of the user's and of the assistant's messages.
- Keep it correct: every answer must be true, complete, and fit the question that you wrote. Where you \
change names, numbers or facts of a question, its answer changes with them. Do not make facts up.
- Make them differ, from the example and from one another: other words, other situations, other details. \
A variation with a few words exchanged is useless.

Answer with JSON alone, in this form: {form}"""


def augment(
    train: Sequence[Row],
    *,
    known: Sequence[Row],
    held_out: Sequence[HeldOut],
    inputs: PrepareInputs,
    teacher: SupportingModel,
    renderer: Renderer,
    out: Path,
    advance: Advance,
    workers: Workers = HERE,
) -> Written:
    """Ask the teacher for variations of training rows, and keep those that may teach.

    What became of each variation is listed in generated.jsonl, and what the teacher said in vain in
    generated_failures.jsonl. A row with tools or calls is not varied, but counted.

    Args:
        train: rows that are trained on; only these are varied.
        known: every row of every side, which no variation may repeat.
        held_out: everything that something is measured on.
        inputs: those of `prepare`.
        teacher: a supporting model.
        renderer: of the base model.
        out: an existing folder.
        advance: told of rows that the teacher has answered for.
        workers: who checks what it answers; who asks is always this process.

    Raises:
        StageError: the teacher answers no more, its budget is spent, or no answer of it can be used.
    """
    spec = inputs.data.augment
    assert spec is not None
    before = replace(teacher.spent)
    plain = [row for row in train if not uses_tools(row)]
    may_see = [row for row in plain if may_be_shown(row, inputs.data.checks, teacher)]
    parents = {row.id: row for row in cap_rows(may_see, spec.rows, dealt=False, seed=inputs.seed)}
    questions = {row.id: question(row, spec.variations) for row in parents.values()}
    replies = ask_json(
        teacher,
        list(questions.values()),
        temperature=spec.temperature,
        max_tokens=spec.max_tokens,
        advance=advance,
        doing="rows varied",
    )
    failed = failures(parents, replies, inputs.data.checks)
    write_listing(out / "generated_failures.jsonl", failed)
    refuse_all_failed(teacher, failed, len(replies))
    candidates = [
        candidate
        for row_id, reply in replies.items()
        if reply.fault is None
        for candidate in _candidates(parents[row_id], spec, teacher, questions[row_id], reply)
    ]
    accepted = accept(
        candidates,
        known=known,
        train=train,
        held_out=held_out,
        renderer=renderer,
        data=inputs.data,
        near=(inputs.data.dedup or Dedup()).near,
        workers=workers,
    )
    write_listing(out / "generated.jsonl", accepted.fates)
    spent = teacher.spent.since(before)
    counts = counts_of(
        teacher,
        replies,
        accepted.fates,
        spent,
        withheld=len(plain) - len(may_see),
        uses_tools=len(train) - len(plain),
    )
    return Written(accepted.rows, accepted.rendered, accepted.flags, counts)


def question(row: Row, num: int) -> Question:
    """What the teacher is asked about a row."""
    exchanges = conversation_as_json(row.messages)
    form = orjson.dumps({"variations": [[{"user": "...", "assistant": "..."}] * len(exchanges)]}).decode()
    told = f"{len(exchanges)} question{'s' if len(exchanges) > 1 else ''} with answers"
    system = _INSTRUCTIONS.format(num=num, exchanges=told, form=form)
    shown: dict[str, Any] = {"conversation": exchanges}
    if row.messages[0]["role"] == "system":
        shown = {"instructions": row.messages[0]["content"], **shown}
    messages: tuple[Message, ...] = (
        {"role": "system", "content": system},
        {"role": "user", "content": orjson.dumps(shown, option=orjson.OPT_INDENT_2).decode()},
    )
    # Fewer than asked for are better than none.
    return Question(row.id, messages, _schema(num, num, len(exchanges)), _schema(1, num, len(exchanges)))


def _schema(at_least: int, at_most: int, num_exchanges: int) -> Schema:
    """An object, since that is what endpoints that are strict about schemas want at the top."""
    text = {"type": "string"}
    exchange = {
        "type": "object",
        "properties": {"user": text, "assistant": text},
        "required": ["user", "assistant"],
        "additionalProperties": False,
    }
    conversation = {
        "type": "array",
        "items": exchange,
        "minItems": num_exchanges,
        "maxItems": num_exchanges,
    }
    return {
        "type": "object",
        "properties": {
            "variations": {
                "type": "array",
                "items": conversation,
                "minItems": at_least,
                "maxItems": at_most,
            }
        },
        "required": ["variations"],
        "additionalProperties": False,
    }


def _candidates(
    parent: Row, spec: Augment, teacher: SupportingModel, asked: Question, reply: Reply
) -> list[Candidate]:
    written = reply.value["variations"]
    provenance = Provenance.of(
        parent, teacher, asked.prompt_sha256, reply, temperature=spec.temperature, shared_by=len(written)
    )
    system = parent.messages[:1] if parent.messages[0]["role"] == "system" else ()
    return [
        Candidate.of(
            replace(
                parent,
                id=f"{parent.id}-v{number}",
                messages=(*system, *_messages(exchanges, parent)),
                source=f"{parent.source} (variation {number})",
            ),
            parent,
            provenance,
        )
        for number, exchanges in enumerate(written, start=1)
    ]


def _messages(exchanges: Sequence[dict[str, str]], parent: Row) -> list[Message]:
    """A variation's turns; what is not learnt of the parent is not learnt of it."""
    answers = [message for message in parent.messages if message["role"] == "assistant"]
    messages: list[Message] = []
    for exchange, answer in zip(exchanges, answers, strict=True):
        messages.append({"role": "user", "content": exchange["user"]})
        said: Message = {"role": "assistant", "content": exchange["assistant"]}
        messages.append(said if is_learnt(answer) else {**said, "weight": 0})
    return messages
