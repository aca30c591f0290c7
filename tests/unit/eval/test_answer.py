from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tunebook_data.rows import Row, write_rows
from tunebook_data.suite_files import SUITES, read_suite, write_suites
from tunebook_eval.answer import answer
from tunebook_eval.answers import FILE, AnswerResult, read_answers
from tunebook_eval.inputs import AnswerInputs, PromptSet, Rewordings
from tunebook_eval.scorers import score_all
from tunebook_eval.shots import Embed
from tunebook_inference.generator import ChatRequest, Completion, Generator, OnDone
from tunebook_inference.kept_answers import KeptAnswers
from tunebook_inference.scripted import ScriptedGenerator
from tunebook_inference.supporting import Prices, SupportingModel
from tunebook_model.conversation import normal_tool
from tunebook_spec.errors import DataError
from tunebook_spec.evaluation import FewShot, Retrieval, SuiteItem
from tunebook_spec.metrics import ChoiceAccuracy


def row(id: str, task: str = "glossary") -> Row:
    messages = (
        {"role": "system", "content": "Expand."},
        {"role": "user", "content": f"note {id}"},
        {"role": "assistant", "content": f"MRI: meaning {id}"},
    )
    return Row(id, messages, task, f"group-{id}", "source", 1, {"stratum": "easy"})  # type: ignore[arg-type]


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    write_rows(folder / "test.jsonl", [row("t1"), row("t2"), row("t3"), row("other", "choice")])
    train = [row(f"r{number}") for number in range(6)] + [row("x", "choice"), row("p", "replay")]
    write_rows(folder / "train.jsonl", train)
    return folder


def inputs(
    arm: str = "base",
    few_shot: FewShot | None = None,
    retrieval: Retrieval | None = None,
    **sets: PromptSet,
) -> AnswerInputs:
    chosen = sets or {"glossary": PromptSet(task="glossary", max_tokens=16)}
    return AnswerInputs(
        arm=arm,
        sets=chosen,
        temperature=0,
        seed=7,
        few_shot=few_shot,
        retrieval=retrieval,
        chat_template_kwargs={},  # type: ignore[arg-type]
    )


def run(
    inputs: AnswerInputs, data_dir: Path, generator: Generator | None, embed: Embed | None = None
) -> AnswerResult:
    out = data_dir.parent / "out"
    out.mkdir(exist_ok=True)
    return answer(
        inputs,
        data_dir=data_dir,
        model_dir=data_dir,
        generator=generator,
        out=out,
        advance=lambda done, total, note="": None,
        embed=embed,
    )


def echo(request: ChatRequest) -> str:
    return request.messages[-1]["content"]


def test_every_item_is_answered_with_what_scoring_needs(data_dir: Path) -> None:
    items = (SuiteItem(q="2+2?", expected_contains=("4", "four")),)
    both = {
        "glossary": PromptSet(task="glossary", max_tokens=16),
        "own": PromptSet(items=items, max_tokens=4),
    }
    result = run(inputs(**both), data_dir, ScriptedGenerator(echo))
    answers = read_answers(data_dir.parent / "out" / FILE)
    assert (result.num_answers, result.num_errors) == (4, 0)
    first, own = answers[0], answers[-1]
    assert (first.set, first.item, first.question, first.text) == ("glossary", "t1", "note t1", "note t1")
    assert (first.reference, first.group, first.stratum) == ("MRI: meaning t1", "group-t1", "easy")
    assert (own.set, own.question, own.expected) == ("own", "2+2?", ("4", "four"))


def test_a_suite_of_a_file_is_asked_as_it_was_kept_with_the_data(data_dir: Path) -> None:
    rows = [
        {"q": "Who signs?", "expected_contains": ["lead", "boss"], "group": "refunds"},
        {"question": "Which gas?", "choices": ["oxygen", "neon"], "answer": 1},
    ]
    suite = data_dir.parent / "suite.jsonl"
    suite.write_text("".join(f"{json.dumps(each)}\n" for each in rows))
    write_suites(data_dir / SUITES, {"suite.jsonl": read_suite("suite.jsonl", data_dir.parent)})
    suite.unlink()
    run(inputs(own=PromptSet(file="suite.jsonl", max_tokens=40)), data_dir, ScriptedGenerator(echo))
    first, second = read_answers(data_dir.parent / "out" / FILE)
    assert (first.set, first.question, first.expected, first.group) == (
        "own",
        "Who signs?",
        ("lead", "boss"),
        "refunds",
    )
    assert second.text == "Which gas?\nAnswer with one of:\n- oxygen\n- neon"
    assert (second.expected, second.meta) == (("neon",), {"choices": ["oxygen", "neon"]})
    (scores,) = score_all(
        ChoiceAccuracy(kind="choice_accuracy"), [second.model_copy(update={"text": "Neon."})]
    )
    assert scores == {"": 1.0}


def test_a_set_may_show_the_training_rows_of_another_task_and_hold_answers_to_a_schema(
    data_dir: Path,
) -> None:
    schema = {"type": "object"}
    other = PromptSet(task="choice", learns_from="glossary", json_schema=schema, max_tokens=16)
    asked: list[ChatRequest] = []

    def look(request: ChatRequest) -> str:
        asked.append(request)
        return "{}"

    run(inputs("few_shot", FewShot(k=2), choice=other), data_dir, ScriptedGenerator(look))
    (request,) = asked
    assert [each["content"].split()[0] for each in request.messages] == [
        "Expand.",
        *["note", "MRI:"] * 2,
        "note",
    ]
    assert request.json_schema == schema
    (data_dir.parent / "out" / FILE).unlink()
    run(inputs("baselines", choice=other), data_dir, None)
    rules = {each.rule: each.text for each in read_answers(data_dir.parent / "out" / FILE)}
    assert "meaning r" in rules["lookup"] or rules["lookup"] == ""
    assert set(rules) == {"copy", "majority", "lookup"}, "those of the task that is learnt from"


def test_a_killed_arm_goes_on_after_its_last_whole_answer(data_dir: Path) -> None:
    asked: list[str] = []

    def dies_at_the_third(request: ChatRequest) -> str:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(request.id)
        return "first attempt"

    with pytest.raises(KeyboardInterrupt):
        run(inputs(), data_dir, ScriptedGenerator(dies_at_the_third))
    path = data_dir.parent / "out" / FILE
    path.write_bytes(path.read_bytes()[:-20])  # a kill in the middle of a write
    result = run(inputs(), data_dir, ScriptedGenerator(lambda request: "second attempt"))
    answers = {each.item: each.text for each in read_answers(path)}
    assert answers == {"t1": "first attempt", "t2": "second attempt", "t3": "second attempt"}
    assert (result.num_answers, result.num_resumed) == (3, 1)
    assert result.timed["glossary"].num_answers == 2, "what the first attempt answered is in no time"
    assert run(inputs(), data_dir, ScriptedGenerator({})).timed == {}, "nothing was left to answer"


@dataclass(frozen=True)
class Slow(ScriptedGenerator):
    """Takes long to start and a while for each answer, and has read every prompt but its last two words."""

    start_s: float = 0.5
    answer_s: float = 0.02

    def start(self) -> None:
        time.sleep(self.start_s)

    def generate(self, requests: Sequence[ChatRequest], on_done: OnDone) -> list[Completion]:
        time.sleep(self.answer_s * len(requests))
        return super().generate(
            requests, lambda done: on_done(replace(done, cached_tokens=done.prompt_tokens - 2))
        )


def test_what_failed_in_a_killed_attempt_is_asked_again(data_dir: Path) -> None:
    result = run(inputs(), data_dir, ScriptedGenerator(lambda each: None if "t2" in echo(each) else "a"))
    assert (result.num_answers, result.num_errors) == (3, 1), "a failed row is counted, and stops no other"
    asked: list[str] = []

    def up_again(request: ChatRequest) -> str:
        asked.append(echo(request))
        return "b"

    result = run(inputs(), data_dir, ScriptedGenerator(up_again))
    assert asked == ["note t2"]
    assert (result.num_answers, result.num_errors, result.num_resumed) == (3, 0, 2)
    answers = read_answers(data_dir.parent / "out" / FILE)
    assert {each.item: each.text for each in answers} == {"t1": "a", "t2": "b", "t3": "a"}


def test_each_set_is_timed_without_the_start_and_without_what_failed(data_dir: Path) -> None:
    items = (SuiteItem(q="2+2?", expected_contains="4"), SuiteItem(q="Why?", expected_contains="so"))
    both = {
        "glossary": PromptSet(task="glossary", max_tokens=16),
        "own": PromptSet(items=items, max_tokens=4),
    }
    slow = Slow(lambda request: None if request.messages[-1]["content"] == "Why?" else "answer")
    result = run(inputs(**both), data_dir, slow)
    assert {name: each.num_answers for name, each in result.timed.items()} == {"glossary": 3, "own": 1}
    assert 3 * slow.answer_s <= result.timed["glossary"].seconds < slow.start_s <= result.seconds
    cached = {each.item: each.cached_tokens for each in read_answers(data_dir.parent / "out" / FILE)}
    assert cached["t1"] == len("Expand. note t1".split()) - 2


def test_few_shot_shows_the_same_training_rows_of_the_task_after_the_system_message(data_dir: Path) -> None:
    prompts: list[Sequence[str]] = []

    def look(request: ChatRequest) -> str:
        prompts.append([f"{message['role']}: {message['content']}" for message in request.messages])
        return "answer"

    run(inputs("few_shot", few_shot=FewShot(k=2)), data_dir, ScriptedGenerator(look))
    assert len(prompts) == 3
    prefixes = {tuple(prompt[:-1]) for prompt in prompts}
    assert len(prefixes) == 1
    system, *shots = prefixes.pop()
    assert system == "system: Expand."
    assert [shot.split()[0] for shot in shots] == ["user:", "assistant:"] * 2
    assert all(" r" in shot for shot in shots)
    assert [prompt[-1] for prompt in prompts] == ["user: note t1", "user: note t2", "user: note t3"]


def test_few_shot_shows_a_repeated_row_once(data_dir: Path) -> None:
    heavy = [replace(row("r0"), id=f"r0-{repeat}") for repeat in range(2, 40)]
    write_rows(data_dir / "train.jsonl", [row("r0"), *heavy, row("r1")])
    shown: list[str] = []

    def look(request: ChatRequest) -> str:
        shown.append(" ".join(message["content"] for message in request.messages[1:-1]))
        return "answer"

    run(inputs("few_shot", few_shot=FewShot(k=2)), data_dir, ScriptedGenerator(look))
    assert all(each.count("note r0") == each.count("note r1") == 1 for each in shown)


def test_the_model_is_shown_the_tools_of_a_test_row(data_dir: Path) -> None:
    tools = (normal_tool({"name": "look_up"}),)
    write_rows(data_dir / "test.jsonl", [replace(row("t1"), tools=tools)])
    seen: list[object] = []

    def look(request: ChatRequest) -> str:
        seen.append(request.tools)
        return "answer"

    run(inputs(), data_dir, ScriptedGenerator(look))
    assert seen == [tools]


def about(id: str, asked: str, task: str = "glossary") -> Row:
    said = ({"role": "user", "content": asked}, {"role": "assistant", "content": f"It is {id}."})
    return replace(row(id, task), messages=(*row(id).messages[:1], *said))  # type: ignore[arg-type]


def shown_for(data_dir: Path, few_shot: FewShot) -> dict[str, list[str]]:
    """By test row, the training rows before its question as the model reads them."""
    seen: dict[str, list[str]] = {}

    def look(request: ChatRequest) -> str:
        shots = [each["content"] for each in request.messages if each["role"] == "assistant"]
        seen[request.messages[-1]["content"]] = [shot.removeprefix("It is ").rstrip(".") for shot in shots]
        return "answer"

    run(inputs("few_shot", few_shot=few_shot), data_dir, ScriptedGenerator(look))
    recorded = {each.question: list(each.shots) for each in read_answers(data_dir.parent / "out" / FILE)}
    assert recorded == seen, "what is recorded is what was shown"
    return seen


def test_similar_shots_are_the_likest_of_the_task_with_the_likest_last(data_dir: Path) -> None:
    train = [
        about("tide", "When is the tide high at the pier?"),
        about("cat", "What does the cat eat at night?"),
        about("cats", "What do cats eat?"),
        about("far", "Rust, rust and rust?"),
        about("else", "What does the cat eat?", "choice"),
    ]
    write_rows(data_dir / "train.jsonl", train)
    test = [about("t1", "What does the CAT eat, then?"), about("t2", "When is high tide?")]
    write_rows(data_dir / "test.jsonl", [*test, about("t3", "What does the cat eat?", "choice")])
    seen = shown_for(data_dir, FewShot(k=2, choose="similar"))
    assert seen == {"What does the CAT eat, then?": ["cats", "cat"], "When is high tide?": ["cat", "tide"]}


def test_of_equally_similar_rows_the_first_are_shown(data_dir: Path) -> None:
    numbers = [about(f"r{n}", f"note r{n}") for n in range(6)]
    write_rows(data_dir / "train.jsonl", [numbers[0], *numbers])
    seen = shown_for(data_dir, FewShot(k=3, choose="similar"))
    assert seen == {f"note t{n}": ["r2", "r1", "r0"] for n in (1, 2, 3)}


def test_seeded_shots_are_recorded_with_each_answer(data_dir: Path) -> None:
    train = [about(f"r{n}", f"note r{n}") for n in range(6)]
    write_rows(data_dir / "train.jsonl", train)
    first, *others = shown_for(data_dir, FewShot(k=2)).values()
    assert len(set(first)) == 2
    assert all(each == first for each in others)


def letters(texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit vectors that are near where texts have like letters."""
    counts = np.array([[text.lower().count(letter) for letter in "abcdefghijklmnop"] for text in texts])
    return (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)


def test_retrieval_shows_the_rows_nearest_in_meaning_with_the_nearest_last(data_dir: Path) -> None:
    train = [about("tide", "poem on a lake"), about("cat", "gold coin"), about("cats", "lake poem and poem")]
    write_rows(data_dir / "train.jsonl", [*train, about("else", "poem on lakes", "choice")])
    write_rows(data_dir / "test.jsonl", [about("t1", "a poem on lakes")])
    seen: list[ChatRequest] = []

    def look(request: ChatRequest) -> str:
        seen.append(request)
        return "answer"

    run(inputs("retrieval", retrieval=Retrieval(k=2)), data_dir, ScriptedGenerator(look), letters)
    (asked,) = seen
    assert [each["content"] for each in asked.messages[1:]] == [
        *("lake poem and poem", "It is cats.", "poem on a lake", "It is tide."),
        "a poem on lakes",
    ]
    (answer,) = read_answers(data_dir.parent / "out" / FILE)
    assert (answer.question, answer.shots) == ("a poem on lakes", ("cats", "tide"))


def test_what_consistency_asks_again_stands_with_the_answer_and_is_not_timed(data_dir: Path) -> None:
    frames = Rewordings(rows=2, frames=("Hi! {question}", "{question} Thanks."))
    again = PromptSet(task="glossary", max_tokens=16, rewordings=frames)

    def fails_when_thanked(request: ChatRequest) -> str | None:
        asked = request.messages[-1]["content"]
        return None if "Thanks" in asked else asked

    result = run(inputs(glossary=again), data_dir, ScriptedGenerator(fails_when_thanked))
    answers = {each.item: each for each in read_answers(data_dir.parent / "out" / FILE)}
    assert (len(answers), result.num_answers, result.timed["glossary"].num_answers) == (3, 7, 3)
    reworded = {item: each.others for item, each in answers.items() if each.others}
    assert reworded == {item: (f"Hi! note {item}", None) for item in reworded}
    assert len(reworded) == 2
    done = run(inputs(glossary=again), data_dir, ScriptedGenerator(echo))
    assert (done.num_answers, done.num_resumed) == (7, 5), "what failed alone was asked again"


def test_an_endpoint_is_shown_no_tools_and_no_personal_data_and_its_money_is_told(data_dir: Path) -> None:
    tools = (normal_tool({"name": "look_up"}),)
    private = about("mail", "Write to ada@uni-ulm.de, please.")
    write_rows(data_dir / "test.jsonl", [row("t1"), replace(row("t2"), tools=tools), private])
    kept = KeptAnswers(data_dir / "answers.sqlite")

    def asked_of(personal_data: str) -> tuple[AnswerResult, dict[str, str | None]]:
        model = SupportingModel(
            "teacher",
            "gpt-x",
            ScriptedGenerator(echo),
            kept,
            is_remote=True,
            is_endpoint=True,
            prices=Prices(1e6, 0),
        )
        fields = inputs("teacher").model_copy(update={"personal_data": personal_data})
        (data_dir.parent / "out" / FILE).unlink(missing_ok=True)
        result = run(fields, data_dir, model)
        return result, {each.item: each.error for each in read_answers(data_dir.parent / "out" / FILE)}

    result, errors = asked_of("flag")
    assert (result.num_errors, result.is_remote, result.cost) == (2, True, float(result.prompt_tokens))
    assert result.prices == (1e6, 0)
    assert result.timed["glossary"].num_answers == 1
    assert errors["t1"] is None
    assert "personal data" in str(errors["mail"])
    assert "for text, not for calls" in str(errors["t2"])
    result, errors = asked_of("allow")
    assert errors["mail"] is None
    assert result.timed == {}, "what was kept took no time now"


def test_few_shot_without_enough_training_rows_is_refused(data_dir: Path) -> None:
    with pytest.raises(DataError, match="task 'glossary' has 6 training rows"):
        run(inputs("few_shot", few_shot=FewShot(k=7)), data_dir, ScriptedGenerator(echo))


def test_rules_answer_every_task_item_without_a_model(data_dir: Path) -> None:
    run(inputs("baselines"), data_dir, None)
    answers = read_answers(data_dir.parent / "out" / FILE)
    rules = {each.rule for each in answers}
    assert {"copy", "majority"} <= rules
    assert len(answers) == 3 * len(rules)
    again = run(inputs("baselines"), data_dir, None)
    assert again.num_resumed == again.num_answers == len(answers)


def test_a_set_without_rows_is_refused(data_dir: Path) -> None:
    with pytest.raises(DataError, match="evaluation set 'voice' is empty"):
        run(inputs(voice=PromptSet(task="voice", max_tokens=8)), data_dir, ScriptedGenerator(echo))
