"""Questions to a supporting model whose answers are JSON: parsed strictly, repaired once, never guessed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from tunebook_data.answer_schema import Schema, answer_problem
from tunebook_inference.generator import ChatRequest, Completion
from tunebook_inference.supporting import SupportingModel
from tunebook_model.conversation import Message
from tunebook_run.progress import Advance

# Models that are held to no schema like to fence their answer; anything else around it is a fault.
_FENCED = re.compile(r"\s*```(?:json)?\n(.*)\n```\s*", re.DOTALL)


@dataclass(frozen=True)
class Question:
    id: str
    messages: tuple[Message, ...]
    schema: Schema
    """What the model is held to, where it can be."""
    accepted: Schema
    """What the answer is checked by: the same, or wider."""
    sample: int = 0
    """Tells repeats of one question apart."""

    @property
    def prompt_sha256(self) -> str:
        return sha256_of(self.messages)


def sha256_of(messages: Sequence[Message]) -> str:
    """Of messages as JSON."""
    return hashlib.sha256(orjson.dumps(messages, option=orjson.OPT_SORT_KEYS)).hexdigest()


@dataclass(frozen=True)
class Reply:
    value: Any
    """The JSON value; None where there is a fault."""
    fault: str | None
    """Why there is no value: the same words for every reply with this fault, as far as a colon."""
    completions: tuple[Completion, ...]
    """All that was answered."""
    is_repaired: bool = False
    """Whether the value is of a second answer, given after the first could not be used."""


def ask_json(
    model: SupportingModel,
    questions: Sequence[Question],
    *,
    temperature: float,
    max_tokens: int,
    advance: Advance,
    doing: str,
) -> dict[str, Reply]:
    """The reply to each question, by its id; an answer that does not parse may be repaired once.

    Raises:
        StageError: the model answers no more, or its budget is spent.
    """

    def ask(prompts: Mapping[str, tuple[Message, ...]], what: str) -> dict[str, Completion]:
        requests = [
            ChatRequest(
                id,
                messages,
                max_tokens,
                temperature=temperature,
                json_schema=asked[id].schema,
                sample=asked[id].sample,
            )
            for id, messages in prompts.items()
        ]
        num_done = 0

        def on_done(_: Completion) -> None:
            nonlocal num_done
            num_done += 1
            advance(num_done, len(requests), f"{what} {model.spent}")

        return {answer.id: answer for answer in model.generate(requests, on_done)}

    asked = {question.id: question for question in questions}
    first = ask({id: question.messages for id, question in asked.items()}, doing)
    replies = {id: _reply(asked[id], (answer,), max_tokens) for id, answer in first.items()}
    broken = {id: each for id, each in replies.items() if each.fault and first[id].error is None}
    prompts = {id: _repair(asked[id], first[id], str(each.fault)) for id, each in broken.items()}
    second = ask(prompts, f"{doing}, repairs,") if prompts else {}
    for id, answer in second.items():
        replies[id] = _reply(asked[id], (first[id], answer), max_tokens)
    return replies


def _reply(question: Question, answers: tuple[Completion, ...], max_tokens: int) -> Reply:
    answer = answers[-1]
    if answer.error is not None:
        return Reply(None, f"no answer: {answer.error}", answers)
    if answer.finish_reason == "length":
        return Reply(None, f"cut off: at {max_tokens} tokens", answers)
    text = fenced[1] if (fenced := _FENCED.fullmatch(answer.text)) else answer.text
    problem = answer_problem(text, question.accepted)
    if problem is not None:
        return Reply(None, f"not the JSON asked for: {problem}", answers)
    return Reply(orjson.loads(text), None, answers, is_repaired=len(answers) > 1)


def _repair(question: Question, answer: Completion, fault: str) -> tuple[Message, ...]:
    told = (
        f"That could not be used, {fault}. Answer the first message again, completely and more briefly, with"
        " nothing but the JSON."
    )
    # An empty message of an assistant is refused by some endpoints.
    return (
        *question.messages,
        {"role": "assistant", "content": answer.text or "(nothing)"},
        {"role": "user", "content": told},
    )
