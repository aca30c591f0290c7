"""Scores read from the probabilities of one token."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tunebook_eval.judge_questions import BETTER, SCORE, Prompt, ask, compare, score, weigh
from tunebook_inference.generator import ChatRequest, Completion, OnDone
from tunebook_inference.kept_answers import KeptAnswers
from tunebook_inference.supporting import SupportingModel
from tunebook_model.conversation import Message
from tunebook_spec.metrics import Judge

ASKED: tuple[Message, ...] = ({"role": "system", "content": "Be exact."}, {"role": "user", "content": "Why?"})
SAID: Message = {"role": "assistant", "content": "It rained."}
METRIC = Judge(kind="judge", judge="judge", criteria={"truth": "It is true."})


def answer(probabilities: Sequence[float], text: str = "7") -> Completion:
    return Completion("1", text, "stop", 9, 1, choice_logprobs=tuple(map(math.log, probabilities)))


def test_a_score_is_the_mean_over_the_digits_on_a_scale_to_ten() -> None:
    tiny = 1e-12
    assert weigh(SCORE, answer([*[tiny] * 9, 1.0])).value == pytest.approx(10)
    assert weigh(SCORE, answer([1.0, *[tiny] * 9])).value == pytest.approx(0, abs=1e-9)
    # 0.6 of the mass is on digits: a third of it on 3 and two thirds on 6 make 5 of 9.
    found = weigh(SCORE, answer([tiny] * 3 + [0.2, tiny, tiny, 0.4, tiny, tiny, tiny]))
    assert found.value == pytest.approx(5 * 10 / 9)


def test_a_model_that_would_say_something_else_has_not_scored() -> None:
    found = weigh(SCORE, answer([0.04] * 10, text="I"))
    assert found.value is None
    assert found.said == "no score: the model would rather say 'I'; all scores have p=0.40"
    failed = Completion("1", "", "error", 9, 0, error="too long")
    assert weigh(SCORE, failed).said == "no answer: too long"


@pytest.mark.parametrize(
    ("probabilities", "value"),
    [((0.5, 0.3, 0.2), 1.0), ((0.3, 0.5, 0.2), 0.0), ((0.3, 0.2, 0.5), 0.5)],
    ids=["first", "second", "neither"],
)
def test_a_comparison_is_what_is_likeliest(probabilities: tuple[float, ...], value: float) -> None:
    assert weigh(BETTER, answer(probabilities)).value == value


class Digits:
    """Certain of 9 where the answer holds the word, else of 0; counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[ChatRequest] = []

    def start(self) -> None:
        """It is always ready."""

    def generate(self, requests: Sequence[ChatRequest], on_done: OnDone) -> list[Completion]:
        made = []
        for request in requests:
            self.asked.append(request)
            is_right = "rained" in request.messages[1]["content"]
            weights = [1e-9] * 9 + [1.0] if is_right else [1.0] + [1e-9] * 9
            logprobs = tuple(map(math.log, weights))
            made.append(Completion(request.id, "9", "stop", 5, 1, choice_logprobs=logprobs))
            on_done(made[-1])
        return made


def test_probabilities_are_kept_and_not_asked_for_again(tmp_path: Path) -> None:
    kept, digits = KeptAnswers(tmp_path / "answers.sqlite"), Digits()
    right, wrong = (score((*ASKED, said), "It is true.") for said in (SAID, {**SAID, "content": "No."}))
    prompts: Mapping[str, tuple[Prompt, int]] = {"a": (right, 0), "b": (wrong, 0)}
    for resumed in (0, 2):
        judge = SupportingModel("judge", "here", digits, kept, weighs_choices=True)
        heard = ask(judge, prompts, METRIC, advance=lambda done, total, note="": None, doing="judged")
        assert [heard[id].value for id in ("a", "b")] == [pytest.approx(10), pytest.approx(0, abs=1e-6)]
        assert judge.spent.resumed == resumed
    assert len(digits.asked) == 2
    request = digits.asked[0]
    assert (request.choices, request.max_tokens) == (tuple("0123456789"), 1)
    assert request.messages[0]["content"].endswith("Answer with one digit from 0 to 9 and nothing else.")


def test_what_a_comparison_shows_has_no_answer_in_the_conversation() -> None:
    earlier: tuple[Message, ...] = (*ASKED, SAID, {"role": "user", "content": "And then?"})
    prompt = compare(earlier, "Sun.", "Snow.", {"truth": "It is true.", "tone": "It is kind."})
    assert json.loads(json.dumps(prompt.shown)) == {
        "instructions": "Be exact.",
        "conversation": [{"user": "Why?", "assistant": "It rained."}, {"user": "And then?"}],
        "first answer": "Sun.",
        "second answer": "Snow.",
    }
    assert "\n\nIt is true.\nIt is kind.\n\n" in prompt.in_json
