from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tunebook_inference.generator import ChatRequest, Completion, Generator
from tunebook_inference.kept_answers import KeptAnswers
from tunebook_inference.scripted import ScriptedGenerator
from tunebook_inference.supporting import Budget, Prices, SupportingModel, identity, open_model
from tunebook_run.settings import ModelSettings
from tunebook_spec.base_model import ScriptedModel
from tunebook_spec.errors import StageError, StoreError


def ask(id: str, content: str, **fields: Any) -> ChatRequest:
    return ChatRequest(id, ({"role": "user", "content": content},), 8, **fields)


class Counted:
    """A model whose questions are counted, and whose answers are kept in a folder."""

    def __init__(self, folder: Path, who: str = "gpt-x at a.example", **fields: Any) -> None:
        self.asked: list[str] = []
        kept = KeptAnswers(folder / "answers.sqlite")
        self.model = SupportingModel("teacher", who, ScriptedGenerator(self._answer), kept, **fields)

    def _answer(self, request: ChatRequest) -> str:
        self.asked.append(request.messages[-1]["content"])
        return "yes it is"

    def ask(self, *requests: ChatRequest) -> list[Completion]:
        return self.model.generate(requests, lambda _: None)


def test_an_answer_is_asked_for_once_whoever_asks(tmp_path: Path) -> None:
    first = Counted(tmp_path)
    first.ask(ask("1", "a?"), ask("2", "a?"), ask("3", "b?"))
    assert first.asked == ["a?", "b?"]
    assert first.model.spent.answers == 2
    second = Counted(tmp_path)
    answers = second.ask(ask("x", "c?"), ask("y", "a?"))
    assert second.asked == ["c?"]
    assert [(each.id, each.text) for each in answers] == [("x", "yes it is"), ("y", "yes it is")]
    assert (second.model.spent.answers, second.model.spent.resumed) == (2, 1)


@pytest.mark.parametrize(
    "other",
    [
        ask("1", "A?"),
        ask("1", "a?", temperature=0.5),
        ask("1", "a?", sample=1),
        ask("1", "a?", json_schema={"type": "object"}),
        ChatRequest("1", ({"role": "user", "content": "a?"},), 9),
        ChatRequest("1", ({"role": "system", "content": "a?"},), 8),
    ],
    ids=["content", "temperature", "sample", "schema", "max_tokens", "role"],
)
def test_another_question_is_another_answer(tmp_path: Path, other: ChatRequest) -> None:
    model = Counted(tmp_path)
    model.ask(ask("1", "a?"))
    model.ask(other)
    assert len(model.asked) == 2


def test_another_model_or_host_is_another_answer(tmp_path: Path) -> None:
    Counted(tmp_path).ask(ask("1", "a?"))
    other = Counted(tmp_path, who="gpt-x at b.example")
    other.ask(ask("1", "a?"))
    assert other.asked == ["a?"]


def no_engine(*_: object) -> Generator:
    raise AssertionError("a script needs none")


def test_another_script_is_another_model(tmp_path: Path) -> None:
    def who(answer: str) -> str:
        (tmp_path / "said.jsonl").write_text(f'{{"pattern": "a", "answers": ["{answer}"]}}')
        model = ScriptedModel(kind="scripted", path="said.jsonl")
        opened = open_model("teacher", model, ModelSettings(), None, kept, tmp_path, no_engine)
        assert opened.who == identity(model, ModelSettings(), None, tmp_path)
        assert [each.text for each in opened.generate([ask("1", "a?")], lambda _: None)] == [answer]
        return opened.who

    kept = KeptAnswers(tmp_path / "answers.sqlite")
    assert who("yes") != who("no")
    assert who("yes") == who("yes")


def test_a_failure_is_not_kept(tmp_path: Path) -> None:
    kept = KeptAnswers(tmp_path / "answers.sqlite")
    model = SupportingModel("teacher", "x", ScriptedGenerator({}), kept)
    (failed,) = model.generate([ask("1", "a?")], lambda _: None)
    assert failed.error is not None
    again = Counted(tmp_path, who="x")
    again.ask(ask("1", "a?"))
    assert again.asked == ["a?"]


@pytest.mark.parametrize(
    ("budget", "num"), [(Budget(tokens=10), 3), (Budget(cost=0.00009), 3), (Budget(), 9)]
)
def test_a_budget_stops_before_the_next_question(tmp_path: Path, budget: Budget, num: int) -> None:
    model = Counted(tmp_path, prices=Prices(1.0, 10.0), budget=budget)
    requests = [ask(str(n), f"{n}?") for n in range(9)]
    if num == 9:
        model.ask(*requests)
    else:
        with pytest.raises(StageError, match=r"is spent: .* for 3 answers"):
            model.ask(*requests)
    assert len(model.asked) == num
    assert model.model.spent.cost == pytest.approx(num * 31e-6)


def test_the_last_answer_may_spend_all_of_the_budget(tmp_path: Path) -> None:
    assert len(Counted(tmp_path, budget=Budget(tokens=4)).ask(ask("1", "a?"))) == 1


def test_a_damaged_file_of_answers_is_named(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    path.write_bytes(b"this is no database, whatever it may be called" * 100)
    with pytest.raises(StoreError, match=r"answers\.sqlite, which keeps the answers"):
        KeptAnswers(path)
