"""What a judge is asked, and how its answer is read: as JSON, or as the probabilities of one token."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunebook_data import judge as of_data
from tunebook_data.answer_schema import Schema
from tunebook_data.structured import Question, ask_json
from tunebook_inference.generator import ChatRequest, Completion
from tunebook_inference.supporting import SupportingModel
from tunebook_model.conversation import Message
from tunebook_run.progress import Advance
from tunebook_spec.metrics import Judged

MIN_MASS = 0.5
"""A model that gives all choices together a lower probability has not answered the question."""
_JUDGED = "the answers of a language model"
_ANSWERS = "gives the last answer"
_COMPARE = """\
You compare answers of language models. You are given a conversation between a user and an assistant, as \
JSON, with the instructions that the assistant follows, if it has any, and two answers to the user's last \
message. Say which of the two answers is better, by these criteria alone:

{criteria}

The order in which the answers stand means nothing. {fairly}

"""
_BETTER_IN_JSON = """\
Give your reason in a sentence, then which answer is better: "first", "second", or "neither" where both are \
as good. Answer with JSON alone, in this form: {"reason": "...", "better": "second"}"""
_BETTER: Schema = {
    "type": "object",
    "properties": {
        "reason": {"type": "string"},
        "better": {"type": "string", "enum": ["first", "second", "neither"]},
    },
    "required": ["reason", "better"],
    "additionalProperties": False,
}
_VALUES = {"first": 1.0, "second": 0.0, "neither": 0.5}


@dataclass(frozen=True)
class Prompt:
    """One question, in the words for either way of answering it."""

    in_json: str
    in_one_token: str
    shown: Mapping[str, Any]
    form: Form


@dataclass(frozen=True)
class Form:
    """How a kind of question is answered."""

    schema: Schema
    value_of: Callable[[Any], float]
    """The value of an answer in JSON."""
    choices: Mapping[str, float]
    """The value of each token that can be the answer."""
    read: Callable[[Sequence[float], Sequence[float]], float]
    """The value of probabilities (which sum to 1), and the values that these are of."""


@dataclass(frozen=True)
class Heard:
    value: float | None
    """Of a score, 0 to 10; of a pair, 1 the first is better, 0 the second, 0.5 neither. None: unscored."""
    said: str
    """The judge's reason; why there is no value, where there is none."""
    is_repaired: bool = False


def _mean(probabilities: Sequence[float], values: Sequence[float]) -> float:
    mean = math.fsum(p * value for p, value in zip(probabilities, values, strict=True))
    return min(mean, max(values))  # rounding must not leave the scale


def _likeliest(probabilities: Sequence[float], values: Sequence[float]) -> float:
    return max(zip(probabilities, values, strict=True))[1]


SCORE = Form(
    of_data.SCORE,
    lambda answer: float(answer["score"]),
    {str(digit): digit * of_data.BEST_SCORE / 9 for digit in range(10)},  # 10 is two tokens in many models
    _mean,
)
BETTER = Form(
    _BETTER,
    lambda answer: _VALUES[answer["better"]],
    {"1": _VALUES["first"], "2": _VALUES["second"], "3": _VALUES["neither"]},
    _likeliest,
)


def score(messages: Sequence[Message], criterion: str) -> Prompt:
    """How well the last message of a conversation meets a criterion."""
    scale = of_data.scale(_JUDGED, _ANSWERS, criterion, 9, 5)
    return Prompt(
        in_json=of_data.instructions(_JUDGED, _ANSWERS, criterion),
        in_one_token=f"{scale}Answer with one digit from 0 to 9 and nothing else.",
        shown=of_data.shown(messages),
        form=SCORE,
    )


def compare(asked: Sequence[Message], first: str, second: str, criteria: Mapping[str, str]) -> Prompt:
    """Which of two answers to the last message of a conversation is better."""
    shown = of_data.shown((*asked, {"role": "assistant", "content": ""}))
    *before, last = shown["conversation"]
    conversation = [*before, {"user": last["user"]}]
    told = _COMPARE.format(criteria="\n".join(criteria.values()), fairly=of_data.FAIRLY)
    digits = "1 if the first answer is better, 2 if the second is, 3 if neither is"
    return Prompt(
        in_json=told + _BETTER_IN_JSON,
        in_one_token=f"{told}Answer with one digit and nothing else: {digits}.",
        shown={**shown, "conversation": conversation, "first answer": first, "second answer": second},
        form=BETTER,
    )


def ask(
    judge: SupportingModel,
    prompts: Mapping[str, tuple[Prompt, int]],
    metric: Judged,
    *,
    advance: Advance,
    doing: str,
) -> dict[str, Heard]:
    """What the judge says to each prompt, by its id; with it stands the number of the repeat.

    Raises:
        StageError: the judge answers no more, or its budget is spent; what it has answered is kept.
    """
    if judge.weighs_choices:
        return _ask_for_a_token(judge, prompts, advance, doing)
    questions = [
        Question(id, of_data.prompt(each.in_json, each.shown), each.form.schema, each.form.schema, sample)
        for id, (each, sample) in prompts.items()
    ]
    replies = ask_json(
        judge,
        questions,
        temperature=metric.temperature,
        max_tokens=metric.max_tokens,
        advance=advance,
        doing=doing,
    )
    return {
        id: Heard(None, reply.fault)
        if reply.fault is not None
        else Heard(prompts[id][0].form.value_of(reply.value), reply.value["reason"], reply.is_repaired)
        for id, reply in replies.items()
    }


def _ask_for_a_token(
    judge: SupportingModel, prompts: Mapping[str, tuple[Prompt, int]], advance: Advance, doing: str
) -> dict[str, Heard]:
    requests = [
        ChatRequest(
            id,
            of_data.prompt(each.in_one_token, each.shown),
            max_tokens=1,
            temperature=0.0,
            choices=tuple(each.form.choices),
            sample=sample,
        )
        for id, (each, sample) in prompts.items()
    ]
    num_done = 0

    def on_done(_: Completion) -> None:
        nonlocal num_done
        num_done += 1
        advance(num_done, len(requests), f"{doing} {judge.spent}")

    answers = judge.generate(requests, on_done)
    return {each.id: weigh(prompts[each.id][0].form, each) for each in answers}


def weigh(form: Form, answer: Completion) -> Heard:
    """The value of an answer of one token."""
    if answer.error is not None:
        return Heard(None, f"no answer: {answer.error}")
    weights = [math.exp(each) for each in answer.choice_logprobs]
    mass = sum(weights)
    if mass < MIN_MASS:
        return Heard(
            None, f"no score: the model would rather say {answer.text!r}; all scores have p={mass:.2f}"
        )
    return Heard(form.read([each / mass for each in weights], list(form.choices.values())), "")
