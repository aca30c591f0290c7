from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.unit.data.preparing import prepared
from tunebook_data.card_page import write_page
from tunebook_data.distill import choose
from tunebook_data.manifest import DatasetManifest
from tunebook_data.rows import Row, read_rows
from tunebook_inference.generator import ChatRequest, Completion, FinishReason
from tunebook_inference.kept_answers import KeptAnswers
from tunebook_inference.scripted import ScriptedGenerator
from tunebook_inference.supporting import SupportingModel
from tunebook_spec.errors import StageError

Answer = Callable[[ChatRequest], str]
Run = Callable[..., DatasetManifest]


def chat(question: str, *answer: str, **fields: Any) -> dict[str, Any]:
    said = [{"role": "assistant", "content": each} for each in answer]
    return {"messages": [{"role": "user", "content": question}, *said], **fields}


ANSWERED = [chat(f"What is in box {n}?", f"In box {n} is a thing.", topic=f"t{n}") for n in range(40)]
PROMPTS = [chat(f"Who made case {n}?", topic=f"p{n}") for n in range(10)]


@pytest.fixture
def run(tiny_llama: Path, tmp_path: Path, write_jsonl: Callable[..., Path]) -> Run:
    def run(
        answers: Answer,
        *,
        rows: list[dict[str, Any]] | None = None,
        distill: dict[str, Any] | None = None,
        source: dict[str, Any] | None = None,
        out: str = "out",
        **data: Any,
    ) -> DatasetManifest:
        write_jsonl(rows or [*ANSWERED, *PROMPTS])
        split = {"group_by": "topic", "test": 0.2, "validation": 0.1}
        known = {"kind": "file", "path": "rows.jsonl", "task": "colour", "split": split, **(source or {})}
        given = {"sources": [known], "distill": {"teacher": "teacher", **(distill or {})}, **data}
        kept = KeptAnswers(tmp_path / "answers.sqlite")
        return prepared(
            tmp_path,
            tiny_llama,
            given,
            out=out,
            inputs={"questions": ("Who wrote Hamlet?",)},
            models={"teacher": SupportingModel("teacher", "t", ScriptedGenerator(answers), kept)},
        )

    return run


def maker(request: ChatRequest) -> str:
    return f"The maker of {request.messages[-1]['content'][9:-1]} is known."


def distilled(folder: Path) -> list[Row]:
    return [row for row in read_rows(folder / "train.jsonl") if "generated" in row.meta]


def fates(folder: Path) -> list[tuple[str, str]]:
    lines = (folder / "distilled.jsonl").read_bytes().splitlines()
    return [(each["outcome"], each["reason"]) for each in map(orjson.loads, lines)]


def test_rows_without_an_answer_are_answered_and_all_train(run: Run, tmp_path: Path) -> None:
    manifest = run(maker)
    (source,) = manifest.sources
    assert (source.rows_in, source.prompts, source.rejects) == (50, 10, 0)
    assert (source.train, source.test, source.validation) == (28, 8, 4)
    counts = manifest.distill
    assert counts is not None
    assert (counts.asked, counts.parsed, counts.made, counts.kept) == (10, 10, 10, 10)
    assert manifest.splits["train"].rows == 38
    made = distilled(tmp_path / "out")
    assert {row.reference for row in made} == {f"The maker of case {n} is known." for n in range(10)}
    assert {row.group for row in made} == {f"p{n}" for n in range(10)}
    assert made[0].meta["generated"]["parent"] == made[0].id.removesuffix("-d")
    write_page(tmp_path / "out")
    assert ". distill</td>" in (tmp_path / "out" / "card.html").read_text()


@pytest.mark.parametrize(
    ("form", "record"),
    [
        ("prompt_completion", {"prompt": "Who made case 1?", "completion": None, "topic": "p1"}),
        ("prompt_completion", {"prompt": "Who made case 1?", "topic": "p1"}),
        ("prompt_completion", {"prompt": "Who made case 1?", "completion": "", "topic": "p1"}),
        ("alpaca", {"instruction": "Who made case 1?", "topic": "p1"}),
    ],
    ids=["null", "absent", "empty cell", "alpaca"],
)
def test_other_formats_may_lack_the_answer_too(
    run: Run, tmp_path: Path, form: str, record: dict[str, Any]
) -> None:
    user, assistant = ("prompt", "completion") if form == "prompt_completion" else ("instruction", "output")
    rows = [
        {user: f"What is in box {n}?", assistant: f"In box {n} is a thing.", "topic": f"t{n}"}
        for n in range(20)
    ]
    run(maker, rows=[*rows, record], source={"format": form})
    (made,) = distilled(tmp_path / "out")
    assert made.messages[0] == {"role": "user", "content": "Who made case 1?"}


COLUMNS = {"user": "Who made {thing}?", "assistant": "{who} of {town}."}


@pytest.mark.parametrize(
    ("unanswered", "columns"),
    [
        ({"thing": "case 1"}, COLUMNS),
        ({"thing": "case 1", "who": None, "town": None}, COLUMNS),
        ({"thing": "case 1", "who": "", "town": ""}, COLUMNS),
        ({"thing": "case 1", "who": "Ada", "town": "Ulm"}, {"user": "Who made {thing}?"}),
    ],
    ids=["absent", "null", "empty cells", "no column at all"],
)
def test_columns_of_ones_own_may_lack_the_answer_too(
    run: Run, tmp_path: Path, unanswered: dict[str, Any], columns: dict[str, str]
) -> None:
    answered = [{"thing": f"box {n}", "who": f"Person {n}", "town": "Ulm"} for n in range(20)]
    half = {"thing": "case 2", "who": "Ada"}
    rows = [{**row, "topic": f"t{n}"} for n, row in enumerate([*answered, half, unanswered])]
    if "assistant" not in columns:
        rows = [chat(f"What is in box {n}?", f"In box {n} is a thing.", topic=f"t{n}") for n in range(20)]
        (tmp_path / "more.jsonl").write_bytes(orjson.dumps({**unanswered, "topic": "p"}))
        more = {"kind": "file", "path": "more.jsonl", "task": "colour", "columns": columns}
        known = {"kind": "file", "path": "rows.jsonl", "task": "colour", "split": {"validation": 0.1}}
        manifest = run(maker, rows=rows, sources=[known, more])
        assert [source.prompts for source in manifest.sources] == [0, 1]
    else:
        manifest = run(maker, rows=rows, source={"columns": columns})
        assert manifest.sources[0].prompts == 1
        assert manifest.rejects_by_reason == {"no 'town'": 1}, "half an answer is none to complete"
    (made,) = distilled(tmp_path / "out")
    assert made.messages == (
        {"role": "user", "content": "Who made case 1?"},
        {"role": "assistant", "content": "The maker of case 1 is known."},
    )


def test_a_prompt_that_may_not_train_is_not_asked(run: Run, tmp_path: Path) -> None:
    run(maker, out="plain")
    held_out = read_rows(tmp_path / "plain" / "test.jsonl")[0]
    seen: list[str] = []

    def answers(request: ChatRequest) -> str:
        seen.append(request.messages[-1]["content"])
        return maker(request)

    asked = held_out.messages[0]["content"]
    rows = [
        *ANSWERED,
        chat("Why is this one asked?", topic=held_out.group),
        chat(asked.upper(), topic="new"),
        chat("who wrote hamlet?", topic="newer"),
        chat("Who made the case?", topic="newest"),
        chat("Who made  the case?", topic="last"),
        chat("Who made the case?", topic="newest"),
    ]
    manifest = run(answers, rows=rows)
    assert seen == ["Who made the case?"]
    assert sorted(fates(tmp_path / "out")) == [
        ("contaminated", "exact"),
        ("contaminated", "group"),
        ("copy", "its prompt is there already"),
        ("copy", "its prompt is there already"),
        ("copy", "its prompt is there already"),
        ("kept", ""),
    ]
    assert manifest.distill is not None
    assert manifest.distill.made == manifest.sources[0].prompts == 6


def test_what_a_test_row_answers_on_its_way_is_not_asked_of_a_teacher(run: Run, tmp_path: Path) -> None:
    def long(number: int) -> dict[str, Any]:
        said = [
            ("user", f"Hello from {number}."),
            ("assistant", "Hello to you too."),
            ("user", "Why?"),
            ("assistant", "That is how it is."),
        ]
        return {"messages": [{"role": role, "content": text} for role, text in said], "topic": f"t{number}"}

    asked = [chat(f"hello from {number}.", topic=f"p{number}") for number in range(40)]
    run(maker, rows=[*map(long, range(40)), *asked])
    tested = {row.messages[0]["content"].lower() for row in read_rows(tmp_path / "out" / "test.jsonl")}
    assert len(tested) >= 4
    taught = {row.messages[0]["content"] for row in distilled(tmp_path / "out")}
    assert taught
    assert taught.isdisjoint(tested)


def test_rows_with_personal_data_are_no_shots_for_an_endpoint(
    tiny_llama: Path, tmp_path: Path, write_jsonl: Callable[..., Path]
) -> None:
    private = [
        chat(f"What is in box {n}?", f"Ask ada{n}@uni-ulm.de for it.", topic=f"t{n}") for n in range(20)
    ]
    write_jsonl([*private, *ANSWERED[20:], *PROMPTS])
    seen: list[str] = []

    def answers(request: ChatRequest) -> str:
        seen.append(" ".join(each["content"] for each in request.messages))
        return maker(request)

    kept = KeptAnswers(tmp_path / "answers.sqlite")
    split = {"group_by": "topic", "test": 0.2, "validation": 0.1}
    prepared(
        tmp_path,
        tiny_llama,
        {
            "sources": [{"kind": "file", "path": "rows.jsonl", "task": "colour", "split": split}],
            "distill": {"teacher": "teacher", "shots": 12},
        },
        models={"teacher": SupportingModel("teacher", "t", ScriptedGenerator(answers), kept, is_remote=True)},
    )
    assert len(seen) == len(PROMPTS)
    assert all("is a thing" in each and "@" not in each for each in seen)


def test_the_teacher_answers_under_its_long_prompt_and_the_row_keeps_the_short_one(
    run: Run, tmp_path: Path
) -> None:
    asked: list[ChatRequest] = []

    def answers(request: ChatRequest) -> str:
        asked.append(request)
        return maker(request)

    run(answers, system="Be brief.", distill={"teacher_system": "You know all. " * 20, "shots": 2})
    train = {row.messages[1]["content"]: row.reference for row in read_rows(tmp_path / "out" / "train.jsonl")}
    for request in asked:
        system, *shots, question = request.messages
        assert system == {"role": "system", "content": "You know all. " * 20}
        assert [each["role"] for each in shots] == ["user", "assistant"] * 2
        assert train[shots[0]["content"]] == shots[1]["content"]
        assert question["content"].startswith("Who made case")
    for row in distilled(tmp_path / "out"):
        assert [message["role"] for message in row.messages] == ["system", "user", "assistant"]
        assert row.messages[0]["content"] == "Be brief."


def test_answers_without_a_majority_fail_and_are_listed(run: Run, tmp_path: Path) -> None:
    def answers(request: ChatRequest) -> str:
        divided = request.messages[-1]["content"] == "Who made case 3?"
        return maker(request) + (f" {request.sample}" if divided or request.sample == 0 else "")

    manifest = run(answers, distill={"samples": 3})
    counts = manifest.distill
    assert counts is not None
    assert (counts.asked, counts.failed, counts.kept, counts.answers) == (10, 1, 9, 30)
    (failure,) = map(orjson.loads, (tmp_path / "out" / "distilled_failures.jsonl").read_bytes().splitlines())
    assert failure["reason"] == "no majority: 1 of 3 answers agree"
    assert len(failure["answers"]) == 3
    assert all(row.reference.endswith("is known.") for row in distilled(tmp_path / "out"))


def test_an_answer_that_fails_a_check_does_not_train(run: Run, tmp_path: Path) -> None:
    manifest = run(lambda request: "No." if "case 3" in str(request.messages) else maker(request))
    assert manifest.distill is not None
    assert manifest.distill.rejected_by_reason == {"answer shorter than min_response_chars 10": 1}
    assert len(distilled(tmp_path / "out")) == 9


def test_no_answer_at_all_stops_the_stage(run: Run) -> None:
    with pytest.raises(StageError, match="none of 10 answers can be used"):
        run(lambda request: "")


def completion(text: str, reason: FinishReason = "stop", error: str | None = None) -> Completion:
    return Completion("", text, reason, 1, 1, error=error)


@pytest.mark.parametrize(
    ("answers", "value", "fault"),
    [
        ([completion("a")], "a", None),
        ([completion("a"), completion("B"), completion(" b")], "B", None),
        ([completion("a"), completion("b")], None, "no majority: 1 of 2 answers agree"),
        ([completion("a", "length"), completion("a"), completion("a")], "a", None),
        ([completion("a", "length")], None, "cut off"),
        ([completion(" ")], None, "empty"),
        ([completion("", "error", "HTTP 500")], None, "no answer: HTTP 500"),
        (
            [completion("a"), completion("", "error", "x"), completion("", "error", "x")],
            None,
            "no majority: ",
        ),
    ],
    ids=["one", "majority", "divided", "one cut", "cut", "empty", "error", "errors"],
)
def test_the_chosen_answer_is_one_that_most_agree_on(
    answers: list[Completion], value: str | None, fault: str | None
) -> None:
    reply = choose(answers)
    assert reply.value == value
    assert str(reply.fault).startswith(str(fault))
