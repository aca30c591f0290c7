from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.unit.data.preparing import prepared
from tunebook_data.card import read_card
from tunebook_data.card_page import write_page
from tunebook_data.judge import question
from tunebook_data.manifest import DatasetManifest
from tunebook_data.rows import Row, read_rows
from tunebook_inference.generator import ChatRequest
from tunebook_inference.kept_answers import KeptAnswers
from tunebook_inference.scripted import ScriptedGenerator
from tunebook_inference.supporting import Budget, SupportingModel
from tunebook_spec.errors import DataError, StageError

Answer = Callable[[ChatRequest], str]
Run = Callable[..., DatasetManifest]
CRITERIA = "The answer names the maker."


def chat(question: str, *answer: str, **fields: Any) -> dict[str, Any]:
    said = [{"role": "assistant", "content": each} for each in answer]
    return {"messages": [{"role": "user", "content": question}, *said], **fields}


ANSWERED = [chat(f"What is in box {n}?", f"In box {n} is a thing.", topic=f"t{n}") for n in range(40)]
PROMPTS = [chat(f"Who made case {n}?", topic=f"p{n}") for n in range(10)]


def maker(request: ChatRequest) -> str:
    return f"The maker of {request.messages[-1]['content'][9:-1]} is number {request.sample}."


def shown(request: ChatRequest) -> list[dict[str, str]]:
    """The conversation that the judge is asked about."""
    return list(json.loads(request.messages[1]["content"])["conversation"])


def verdict(score: Any) -> str:
    return json.dumps({"reason": "It is so.", "score": score})


class Models:
    """A teacher and a judge, whose questions are kept."""

    def __init__(self, folder: Path, judge: Answer, teacher: Answer = maker, **fields: Any) -> None:
        self.asked: list[ChatRequest] = []
        self.kept = KeptAnswers(folder / "answers.sqlite")

        def judged(request: ChatRequest) -> str:
            self.asked.append(request)
            return judge(request)

        self.judge = SupportingModel("judge", "j", ScriptedGenerator(judged), self.kept, **fields)
        self.teacher = SupportingModel("teacher", "t", ScriptedGenerator(teacher), self.kept)


@pytest.fixture
def run(tiny_llama: Path, tmp_path: Path, write_jsonl: Callable[..., Path]) -> Run:
    def run(models: Models, *, rows: list[dict[str, Any]], out: str = "out", **data: Any) -> DatasetManifest:
        write_jsonl(rows)
        split = {"group_by": "topic", "test": 0.2, "validation": 0.1}
        weight = data.pop("weight", 1)
        source = {"kind": "file", "path": "rows.jsonl", "task": "t", "split": split, "weight": weight}
        who = {"teacher": models.teacher, "judge": models.judge}
        return prepared(tmp_path, tiny_llama, {"sources": [source], **data}, out=out, models=who)

    return run


def listing(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def distill(**fields: Any) -> dict[str, Any]:
    return {
        "teacher": "teacher",
        "samples": 3,
        "choose": {"judge": "judge", "criteria": CRITERIA},
        **fields,
    }


def distilled(folder: Path) -> list[Row]:
    return [row for row in read_rows(folder / "train.jsonl") if "generated" in row.meta]


@pytest.mark.parametrize(
    ("scores", "best"),
    [((3, 9, 5), 1), ((3, 9, 9), 1), ((0, 0, 0), 0), ((10, 9, 8), 0), ((1, 2, 3), 2)],
    ids=["best", "tie", "all zero", "first", "last"],
)
def test_the_answer_that_is_scored_best_is_kept_and_of_equals_the_first(
    run: Run, tmp_path: Path, scores: tuple[int, ...], best: int
) -> None:
    models = Models(tmp_path, lambda request: verdict(scores[int(shown(request)[0]["assistant"][-2])]))
    manifest = run(models, rows=[*ANSWERED, *PROMPTS], distill=distill())
    made = distilled(tmp_path / "out")
    assert {row.reference for row in made} == {f"The maker of case {n} is number {best}." for n in range(10)}
    for row in made:
        assert row.meta["generated"]["judge"] == "j"
        assert row.meta["generated"]["scores"] == list(scores)
    counts = manifest.distill
    assert counts is not None
    assert counts.judged is not None
    assert (counts.kept, counts.answers, counts.judged.asked, counts.judged.answers) == (10, 30, 30, 30)
    assert counts.judged.scores == {score: 10 * num for score, num in sorted(Counter(scores).items())}
    assert len(models.asked) == 30
    words = sum(len(each["content"].split()) for request in models.asked for each in request.messages)
    assert counts.judged.prompt_tokens == words
    assert counts.prompt_tokens == models.teacher.spent.prompt_tokens < words


def test_the_judge_is_told_the_criteria_and_shown_the_row_and_nothing_of_the_teachers_prompt(
    run: Run, tmp_path: Path
) -> None:
    models = Models(tmp_path, lambda request: verdict(5))
    given = distill(teacher_system="You know all makers.", shots=2)
    run(models, rows=[*ANSWERED, *PROMPTS], distill=given, system="Be brief.")
    for request in models.asked:
        assert CRITERIA in request.messages[0]["content"]
        told = json.loads(request.messages[1]["content"])
        assert told["instructions"] == "Be brief."
        assert [list(each) for each in told["conversation"]] == [["user", "assistant"]]
        assert "know all makers" not in str(request.messages)
        assert request.temperature == 0
        assert request.json_schema is not None


UNREADABLE = {
    "prose": "It is a 7.",
    "eleven": verdict(11),
    "a part": verdict(7.5),
    "text": verdict("7"),
    "below": verdict(-1),
    "no reason": '{"score": 7}',
    "more": '{"reason": "", "score": 7, "sure": true}',
    "nothing": "",
}


@pytest.mark.parametrize("said", UNREADABLE.values(), ids=UNREADABLE)
def test_a_prompt_whose_answers_cannot_be_scored_is_left_out_with_the_reason(
    run: Run, tmp_path: Path, said: str
) -> None:
    def judge(request: ChatRequest) -> str:
        case = shown(request)[0]["user"]
        if case == "Who made case 4?" and len(request.messages) == 2:
            return said
        return said if case == "Who made case 3?" else verdict(7)

    models = Models(tmp_path, judge)
    manifest = run(models, rows=[*ANSWERED, *PROMPTS], distill=distill())
    counts = manifest.distill
    assert counts is not None
    assert counts.judged is not None
    assert (counts.asked, counts.failed, counts.kept) == (10, 1, 9)
    assert (counts.judged.asked, counts.judged.unscored, counts.judged.repaired) == (30, 3, 3)
    assert counts.judged.answers == 36, "each of six answers was asked about once more"
    (failure,) = listing(tmp_path / "out" / "distilled_failures.jsonl")
    assert failure["reason"].startswith("not scored: not the JSON asked for: ")
    assert len(failure["answers"]) == 3
    assert "3 not scored" in manifest.summary()


def test_an_answer_without_a_score_is_not_chosen_over_one_with_the_lowest(run: Run, tmp_path: Path) -> None:
    def judge(request: ChatRequest) -> str:
        return verdict(0) if shown(request)[0]["assistant"].endswith("number 2.") else "Well."

    run(Models(tmp_path, judge), rows=[*ANSWERED, *PROMPTS], distill=distill())
    for row in distilled(tmp_path / "out"):
        assert row.reference.endswith("number 2.")
        assert row.meta["generated"]["scores"] == [None, None, 0]


def test_what_fails_the_checks_is_not_judged_and_never_chosen(run: Run, tmp_path: Path) -> None:
    def teacher(request: ChatRequest) -> str:
        nothing_fits = "case 3" in request.messages[-1]["content"]
        return "No." if nothing_fits or request.sample == 0 else maker(request)

    models = Models(tmp_path, lambda request: verdict(5), teacher)
    manifest = run(models, rows=[*ANSWERED, *PROMPTS], distill=distill())
    assert not [request for request in models.asked if "No." in str(shown(request))]
    assert len(models.asked) == 18
    assert manifest.distill is not None
    assert manifest.distill.rejected_by_reason == {"answer shorter than min_response_chars 10": 1}
    made = distilled(tmp_path / "out")
    assert len(made) == 9
    assert all(row.meta["generated"]["scores"] == [None, 5, 5] for row in made)


def test_a_judge_elsewhere_is_shown_no_personal_data_and_such_an_answer_is_not_chosen_unseen(
    run: Run, tmp_path: Path
) -> None:
    def teacher(request: ChatRequest) -> str:
        mail = " Write to jane.doe@example-mail.org." if "case 3" in str(request.messages) else ""
        return maker(request) + mail

    asked = chat("Who made case 10 of jane.doe@example-mail.org?", topic="p10")
    models = Models(tmp_path, lambda request: verdict(5), teacher, is_remote=True)
    manifest = run(models, rows=[*ANSWERED, *PROMPTS, asked], distill=distill())
    assert "jane.doe" not in str(models.asked)
    assert manifest.distill is not None
    assert (manifest.distill.withheld, manifest.distill.failed, manifest.distill.kept) == (1, 1, 9)
    (failure,) = listing(tmp_path / "out" / "distilled_failures.jsonl")
    assert failure["reason"] == "not scored: personal data, which no endpoint is shown"


def test_a_judge_that_scores_nothing_at_all_ends_the_stage(run: Run, tmp_path: Path) -> None:
    told = r"judge \(j\): none of 30 scores can be read, for instance: not the JSON.*it said 'Fine\.'"
    with pytest.raises(StageError, match=told):
        run(Models(tmp_path, lambda request: "Fine."), rows=[*ANSWERED, *PROMPTS], distill=distill())


QUALITY = {"judge": "judge", "at_least": 6, "criteria": CRITERIA}


def by_box(scores: Callable[[int], Any]) -> Answer:
    return lambda request: verdict(scores(int(shown(request)[0]["user"].split()[-1][:-1])))


def test_training_rows_of_low_quality_are_rejects_and_nothing_else_is_judged(
    run: Run, tmp_path: Path
) -> None:
    models = Models(tmp_path, by_box(lambda n: n % 10))
    copy = chat("What is in box 1?", "In box 1 is a thing.", topic="t1")
    near = [chat(f"Please: what is in box {n}?", f"In box {n} is a thing.", topic=f"t{n}") for n in range(40)]
    rows = [*ANSWERED, copy, *near]
    manifest = run(models, rows=rows, quality=QUALITY, dedup={"near": 0.5}, weight=2)
    sides = {side: read_rows(tmp_path / "out" / f"{side}.jsonl") for side in ("train", "validation", "test")}
    held_out = {row.messages[0]["content"] for side in ("validation", "test") for row in sides[side]}
    asked = [shown(request)[0]["user"] for request in models.asked]
    assert len(set(asked)) == len(asked)
    assert not held_out & set(asked)
    (source,) = manifest.sources
    counts = manifest.quality
    assert counts is not None
    assert source.near_duplicates > 0
    assert counts.judged.asked == len(asked) == source.train + counts.below
    assert counts.below == source.rejects > 0
    assert source.accounted == source.rows_in == 81
    assert (source.capped, source.repeats) == (0, source.train)
    assert manifest.rejects_by_reason == {"quality below 6": counts.below}
    train = Counter(row.messages[0]["content"] for row in sides["train"])
    assert set(train.values()) == {2}
    assert min(int(each.split()[-1][:-1]) % 10 for each in train) == 6
    rejects = listing(tmp_path / "out" / "rejects.jsonl")
    assert all(each["value"] in {f"{n} of 10: It is so." for n in range(6)} for each in rejects)
    card = read_card(tmp_path / "out")
    steps = {step.name: (step.rows_in, step.rows_out) for step in card.steps}
    assert steps["quality"] == (len(asked), source.train)
    assert steps["cap"][1] == len(asked)
    assert steps["augment"] == (source.train, source.train)
    (reason,) = card.rejects
    assert reason.rows == counts.below
    write_page(tmp_path / "out")
    assert f"{counts.below} rows below quality 6" in (tmp_path / "out" / "card.html").read_text()


def test_a_row_that_cannot_be_scored_stays_and_is_told(run: Run, tmp_path: Path) -> None:
    models = Models(tmp_path, by_box(lambda n: "good" if n % 4 == 0 else 8))
    manifest = run(models, rows=ANSWERED, quality=QUALITY)
    counts = manifest.quality
    assert counts is not None
    train = [row.messages[0]["content"] for row in read_rows(tmp_path / "out" / "train.jsonl")]
    unscored = sum(int(each.split()[-1][:-1]) % 4 == 0 for each in train)
    assert len(train) == counts.judged.asked == 28
    assert counts.judged.unscored == unscored > 0
    assert manifest.flags_by_reason["not scored by the judge"] == unscored
    flags = listing(tmp_path / "out" / "flags.jsonl")
    assert [each["line"] for each in flags] == sorted(each["line"] for each in flags)
    (step,) = [step for step in read_card(tmp_path / "out").steps if step.name == "quality"]
    assert step.note == f"score less than 6 of 10 by j; 28 judged, and kept: {unscored} not scored"


def test_rows_with_personal_data_or_tools_are_kept_unjudged_and_counted(run: Run, tmp_path: Path) -> None:
    rows = [*ANSWERED, *(chat(f"Who is x{n}@example-mail.org?", "That is a person.") for n in range(3))]
    for number, row in enumerate(rows):
        row = rows[number] = {**row, "topic": f"s{number}"}
    models = Models(tmp_path, lambda request: verdict(9), is_remote=True)
    manifest = run(models, rows=rows, quality=QUALITY)
    assert "example-mail" not in str(models.asked)
    train = read_rows(tmp_path / "out" / "train.jsonl")
    withheld = sum("example-mail" in row.messages[0]["content"] for row in train)
    assert manifest.quality is not None
    assert manifest.quality.withheld == withheld > 0
    assert manifest.quality.judged.asked == len(train) - withheld


def test_a_judge_is_asked_once_for_each_row_whatever_ends_the_stage(run: Run, tmp_path: Path) -> None:
    first = Models(tmp_path, lambda request: verdict(9), budget=Budget(tokens=2000))
    with pytest.raises(StageError, match=r"the budget of judge \(j\) is spent"):
        run(first, rows=ANSWERED, quality=QUALITY, out="a")
    assert 0 < len(first.asked) < 28
    second = Models(tmp_path, lambda request: verdict(9))
    run(second, rows=ANSWERED, quality=QUALITY, out="b")
    assert len(first.asked) + len(second.asked) == 28
    third = Models(tmp_path, lambda request: verdict(0))
    manifest = run(third, rows=ANSWERED, quality={**QUALITY, "at_least": 9}, out="c")
    assert not third.asked, "another bar asks nothing"
    assert manifest.quality is not None
    assert (manifest.quality.judged.resumed, manifest.quality.below) == (28, 0)
    assert read_card(tmp_path / "c").manifest == manifest.of_any_attempt


def test_a_source_of_which_nothing_is_good_enough_ends_the_stage(run: Run, tmp_path: Path) -> None:
    told = r"source rows\.jsonl \(t\): the judge scores all of 28 training rows below 6"
    with pytest.raises(DataError, match=told):
        run(Models(tmp_path, lambda request: verdict(5)), rows=ANSWERED, quality=QUALITY)


def test_what_quality_drops_is_neither_varied_nor_shown_to_a_teacher(run: Run, tmp_path: Path) -> None:
    seen: list[str] = []

    def teacher(request: ChatRequest) -> str:
        seen.append(str(request.messages))
        return maker(request)

    models = Models(tmp_path, by_box(lambda n: n % 10), teacher)
    given = {"teacher": "teacher", "shots": 16}
    run(models, rows=[*ANSWERED, *PROMPTS], quality=QUALITY, distill=given)
    low = [row for row in ANSWERED if int(row["topic"][1:]) % 10 < 6]
    assert len(seen) == 10
    assert not [row for row in low if f"'{row['messages'][0]['content']}'" in str(seen)]


def test_a_conversation_with_instructions_is_shown_with_them(make_row: Callable[..., Row]) -> None:
    row = make_row("Why?", "It was painted blue.")
    system = {"role": "system", "content": "Be {kind}."}
    asked = question("1", Row(**{**row.__dict__, "messages": (system, *row.messages)}), "  It is {true}.\n")
    assert "\n\nIt is {true}.\n\n" in asked.messages[0]["content"]
    assert json.loads(asked.messages[1]["content"]) == {
        "instructions": "Be {kind}.",
        "conversation": [{"user": "Why?", "assistant": "It was painted blue."}],
    }
