from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.unit.data.preparing import prepared
from tunebook_data.augment import question
from tunebook_data.card import read_card
from tunebook_data.card_page import write_page
from tunebook_data.manifest import DatasetManifest
from tunebook_data.rows import Row, read_rows
from tunebook_inference.generator import ChatRequest
from tunebook_inference.kept_answers import KeptAnswers
from tunebook_inference.scripted import ScriptedGenerator
from tunebook_inference.supporting import Prices, SupportingModel
from tunebook_spec.errors import StageError

THINGS = ("apple", "brick", "cloud", "daisy", "ember", "flint", "grape", "hazel", "ivory", "jewel")
Answer = Callable[[ChatRequest], str]
Run = Callable[..., DatasetManifest]


def source_rows() -> list[dict[str, Any]]:
    return [
        {
            "topic": f"{thing}{number}",
            "messages": [
                {"role": "user", "content": f"Which colour has the {thing} of box {number}, seen at noon?"},
                {"role": "assistant", "content": f"The {thing} in box number {number} is quite blue."},
            ],
        }
        for number, thing in enumerate(THINGS * 3)
    ]


def shown(request: ChatRequest) -> dict[str, Any]:
    """The example that the teacher is shown."""
    return dict(json.loads(request.messages[1]["content"]))


def variation(request: ChatRequest, number: int) -> list[dict[str, str]]:
    """A good one: about the same thing, in words that occur nowhere else."""
    (exchange,) = shown(request)["conversation"]
    tag = "".join(re.findall(r"(?:the (\w+) of box (\d+))", exchange["user"])[0])
    words = " ".join(f"{tag}w{number}{letter}" for letter in "abcdefgh")
    return [{"user": f"Tell me of {words}", "assistant": f"It is about {words} indeed"}]


def answer_json(*variations: Any) -> str:
    return json.dumps({"variations": variations})


def good(request: ChatRequest) -> str:
    return answer_json(variation(request, 1), variation(request, 2))


def teacher(folder: Path, answers: Answer, **fields: Any) -> SupportingModel:
    generator = ScriptedGenerator(answers)
    kept = KeptAnswers(folder / "answers.sqlite")
    return SupportingModel("teacher", "scripted at nowhere", generator, kept, **fields)


@pytest.fixture
def run(tiny_llama: Path, tmp_path: Path, write_jsonl: Callable[..., Path]) -> Run:
    def run(
        answers: Answer | SupportingModel,
        *,
        out: str = "out",
        rows: list[dict[str, Any]] | None = None,
        augment: dict[str, Any] | None = None,
        split: dict[str, Any] | None = None,
        questions: tuple[str, ...] = (),
        weight: float = 1,
        **data: Any,
    ) -> DatasetManifest:
        write_jsonl(rows or source_rows())
        split = split or {"group_by": "topic", "test": 0.2, "validation": 0.1}
        source = {"kind": "file", "path": "rows.jsonl", "task": "colour", "split": split, "weight": weight}
        given = {"teacher": "teacher", "variations": 2, **(augment or {})}
        model = answers if isinstance(answers, SupportingModel) else teacher(tmp_path, answers)
        return prepared(
            tmp_path,
            tiny_llama,
            {"sources": [source], "augment": given, **data},
            out=out,
            inputs={"questions": questions},
            models={"teacher": model},
        )

    return run


def listing(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def variations_of(folder: Path) -> list[Row]:
    return [row for row in read_rows(folder / "train.jsonl") if "generated" in row.meta]


def test_variations_train_beside_their_parents_and_say_where_they_come_from(run: Run, tmp_path: Path) -> None:
    manifest = run(teacher(tmp_path, good, prices=Prices(2.0, 10.0)), augment={"rows": 10})
    counts = manifest.augment
    assert counts is not None
    assert (counts.asked, counts.parsed, counts.made, counts.kept) == (10, 10, 20, 20)
    (source,) = manifest.sources
    assert source.accounted == source.rows_in == 30
    assert manifest.splits["train"].rows == source.train + 20
    train = {row.id: row for row in read_rows(tmp_path / "out" / "train.jsonl")}
    made = variations_of(tmp_path / "out")
    assert len(made) == 20
    for row in made:
        said = row.meta["generated"]
        parent = train[said["parent"]]
        assert (row.group, row.task) == (parent.group, parent.task)
        assert (said["teacher"], said["temperature"], said["shared_by"]) == ("scripted at nowhere", 0.8, 2)
        assert said["prompt_sha256"] == question(parent, 2).prompt_sha256
        assert said["cost"] == pytest.approx(2e-6 * said["prompt_tokens"] + 1e-5 * said["completion_tokens"])
    calls = {row.meta["generated"]["parent"]: row.meta["generated"] for row in made}.values()
    assert sum(call["prompt_tokens"] for call in calls) == counts.prompt_tokens
    assert sum(call["completion_tokens"] for call in calls) == counts.completion_tokens
    assert sum(call["cost"] for call in calls) == pytest.approx(counts.cost)


def test_no_held_out_row_is_shown_to_the_teacher(run: Run, tmp_path: Path) -> None:
    seen: list[str] = []

    def answers(request: ChatRequest) -> str:
        seen.append(shown(request)["conversation"][0]["user"])
        return good(request)

    run(answers)
    sides = {side: read_rows(tmp_path / "out" / f"{side}.jsonl") for side in ("test", "validation")}
    held_out = {row.messages[0]["content"] for rows in sides.values() for row in rows}
    assert len(held_out) == 9
    assert not held_out & set(seen)
    assert len(seen) == 21


def test_what_is_asked_next_costs_nothing_and_gives_the_same_bytes(run: Run, tmp_path: Path) -> None:
    first = run(good, out="a")
    asked: list[ChatRequest] = []
    second = run(teacher(tmp_path, lambda request: str(asked.append(request))), out="b")
    assert not asked
    assert (first.augment.resumed, second.augment.resumed) == (0, 21)  # type: ignore[union-attr]
    for name in "ab":
        write_page(tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


EXCHANGE = {"user": "A question of some length?", "assistant": "An answer of some length."}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Sure! Here you are.", "not the JSON asked for: not JSON: "),
        ('{"variations": [[{"user": "Half of', "not the JSON asked for: not JSON: "),
        (answer_json([EXCHANGE, EXCHANGE]), "not the JSON asked for: $.variations[0]: "),
        (answer_json({"user": "a"}), "not the JSON asked for: $.variations[0]: "),
        (answer_json(), "not the JSON asked for: $.variations: "),
        (answer_json([EXCHANGE], [EXCHANGE], [EXCHANGE]), "not the JSON asked for: $.variations: "),
        ('{"variations": [], "note": 1}', "not the JSON asked for: $"),
        ("", "not the JSON asked for: not JSON: "),
    ],
    ids=["prose", "half", "two exchanges", "no list", "none", "too many", "more keys", "nothing"],
)
def test_an_answer_that_does_not_parse_is_repaired_once_then_listed(
    run: Run, tmp_path: Path, text: str, fault: str
) -> None:
    repairs: list[ChatRequest] = []

    def answers(request: ChatRequest) -> str:
        if len(request.messages) > 2:
            repairs.append(request)
        broken = {"apple", "brick"} & set(request.messages[1]["content"].split())
        stays_broken = "brick" in broken
        return text if stays_broken or (broken and len(request.messages) == 2) else good(request)

    manifest = run(answers)
    counts = manifest.augment
    assert counts is not None
    num = Counter(
        row.messages[0]["content"].split()[4] for row in read_rows(tmp_path / "out" / "train.jsonl")
    )
    assert num["apple"]
    assert num["brick"]
    assert (counts.repaired, counts.failed) == (num["apple"], num["brick"])
    assert counts.asked == counts.parsed + counts.failed == 21
    assert counts.answers == 21 + len(repairs)
    assert repairs[0].messages[2] == {"role": "assistant", "content": text or "(nothing)"}
    assert fault in repairs[0].messages[3]["content"]
    failed = listing(tmp_path / "out" / "generated_failures.jsonl")
    assert len(failed) == counts.failed
    assert failed[0]["reason"].startswith(fault)
    assert failed[0]["answers"] == [text, text]
    assert failed[0]["source"] == "rows.jsonl"
    assert f"{counts.failed} failed" in manifest.summary()


def test_a_fence_around_the_whole_answer_is_no_fault(run: Run) -> None:
    manifest = run(lambda request: f"```json\n{good(request)}\n```")
    assert manifest.augment is not None
    assert (manifest.augment.parsed, manifest.augment.repaired) == (21, 0)


def test_an_answer_that_is_cut_off_is_repaired_by_a_shorter_one(run: Run) -> None:
    def answers(request: ChatRequest) -> str:
        return good(request) if len(request.messages) > 2 else good(request) + " word" * 100

    manifest = run(answers, augment={"max_tokens": 80})
    assert manifest.augment is not None
    assert (manifest.augment.parsed, manifest.augment.repaired, manifest.augment.failed) == (21, 21, 0)


def test_no_answer_that_can_be_used_stops_the_stage_and_shows_one(run: Run, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"none of 21 answers can be used, .*not JSON.*'I cannot\.'"):
        run(lambda request: "I cannot.")
    assert len(listing(tmp_path / "out" / "generated_failures.jsonl")) == 21


def fates(folder: Path) -> Counter[tuple[str, str]]:
    return Counter((each["outcome"], each["reason"]) for each in listing(folder / "generated.jsonl"))


BAD: dict[str, tuple[Callable[[dict[str, str]], dict[str, str]], tuple[str, str]]] = {
    "short": (
        lambda example: {"user": "What is new?", "assistant": "No."},
        ("rejected", "answer shorter than min_response_chars 10"),
    ),
    "empty": (lambda example: {"user": " ", "assistant": "It is blue."}, ("rejected", "empty content")),
    "damaged": (
        lambda example: {"user": "What is Ã©?", "assistant": "It is blue now."},
        ("rejected", "encoding damage"),
    ),
    "too long": (
        lambda example: {"user": "Why, " * 300, "assistant": "It is blue now."},
        ("rejected", "longer than max_tokens 400"),
    ),
    "equal": (lambda example: {k: v.upper() for k, v in example.items()}, ("copy", "an equal conversation")),
    "near": (
        lambda example: {"user": f"Oh! {example['user']}", "assistant": example["assistant"]},
        ("copy", "a near copy"),
    ),
    "asked by evaluation": (
        lambda example: {"user": "Who  wrote hamlet?", "assistant": f"Not {example['assistant']}"},
        ("contaminated", "exact"),
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_variation_passes_what_a_row_passes_even_where_cleaning_of_rows_is_off(
    run: Run, tmp_path: Path, kind: str
) -> None:
    make, fate = BAD[kind]

    def answers(request: ChatRequest) -> str:
        (example,) = shown(request)["conversation"]
        return answer_json(variation(request, 1), [make(example)])

    manifest = run(
        answers,
        questions=("Who wrote Hamlet?",),
        decontaminate=None,
        checks={"max_tokens": 400, "on_too_long": "fail"},
    )
    counts = manifest.augment
    assert counts is not None
    assert (counts.made, counts.kept) == (42, 21)
    assert fates(tmp_path / "out") == {("kept", ""): 21, fate: 21}
    assert len(variations_of(tmp_path / "out")) == 21


def test_a_variation_that_nearly_repeats_a_test_row_or_another_variation_is_dropped(
    run: Run, tmp_path: Path
) -> None:
    run(good, out="plain")
    held_out = read_rows(tmp_path / "plain" / "test.jsonl")[0]
    asked, said = (message["content"] for message in held_out.messages)

    def answers(request: ChatRequest) -> str:
        first = variation(request, 1)
        again = [{"user": f"Please: {first[0]['user']}", "assistant": first[0]["assistant"]}]
        return answer_json(
            first, again, [{"user": f"{first[0]['user'].split()[-1]}: {asked}", "assistant": said}]
        )

    manifest = run(answers, augment={"variations": 3})
    assert manifest.augment is not None
    assert manifest.augment.kept == 21
    told = [each for each in listing(tmp_path / "out" / "generated.jsonl") if each["outcome"] != "kept"]
    assert {each["reason"] for each in told} == {"a near copy"}
    assert sum(f"{held_out.source}:{held_out.line}," in each["detail"] for each in told) == 21
    assert sum("(variation 1)" in each["detail"] for each in told) == 21


def test_rows_with_personal_data_are_not_shown_to_an_endpoint_unless_the_spec_allows_it(
    run: Run, tmp_path: Path
) -> None:
    rows = source_rows()
    for row in rows[:10]:
        row["messages"][0]["content"] += " Write to jane.doe@example-mail.org then."
    seen: list[str] = []

    def answers(request: ChatRequest) -> str:
        seen.append(request.messages[1]["content"])
        return good(request)

    flagged = run(teacher(tmp_path, answers, is_remote=True), rows=rows, out="flagged")
    assert not [text for text in seen if "jane.doe" in text]
    assert flagged.augment is not None
    assert flagged.augment.withheld == 21 - len(seen) > 0
    allowed = run(
        teacher(tmp_path, answers, is_remote=True), rows=rows, out="all", checks={"personal_data": "allow"}
    )
    assert [text for text in seen if "jane.doe" in text]
    assert allowed.augment is not None
    assert allowed.augment.withheld == 0


def test_a_conversation_of_several_turns_is_varied_whole_and_keeps_its_system_message(
    run: Run, tmp_path: Path
) -> None:
    rows = source_rows()
    for row in rows:
        more = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "It was painted blue."}]
        row["messages"] = [{"role": "system", "content": "Be kind."}, *row["messages"], *more]

    def answers(request: ChatRequest) -> str:
        assert shown(request)["instructions"] == "Be kind."
        assert [list(each) for each in shown(request)["conversation"]] == [["user", "assistant"]] * 2
        first = {**shown(request), "conversation": shown(request)["conversation"][:1]}
        single = ChatRequest("", (request.messages[0], {"role": "user", "content": json.dumps(first)}), 1)
        return answer_json([*variation(single, 1), *variation(single, 2)])

    run(answers, rows=rows)
    made = variations_of(tmp_path / "out")
    assert len(made) == 21
    for row in made:
        roles = [message["role"] for message in row.messages]
        assert roles == ["system", "user", "assistant", "user", "assistant"]
        assert row.messages[0]["content"] == "Be kind."


def test_personal_data_that_a_teacher_makes_up_is_masked_where_the_spec_says_so(
    run: Run, tmp_path: Path
) -> None:
    def answers(request: ChatRequest) -> str:
        (each,) = variation(request, 1)
        mail = f"{each['user'].split()[-1]}@example-mail.org"
        return answer_json([{**each, "assistant": f"{each['assistant']} of {mail}"}])

    run(answers, checks={"personal_data": "mask"})
    made = variations_of(tmp_path / "out")
    assert len(made) == 21
    assert all(row.reference.endswith("of [EMAIL]") for row in made)


def test_the_card_tells_what_a_teacher_added_and_copies_come_after_it(run: Run, tmp_path: Path) -> None:
    manifest = run(good, augment={"rows": 5}, weight=2)
    (source,) = manifest.sources
    steps = {step.name: (step.rows_in, step.rows_out) for step in read_card(tmp_path / "out").steps}
    assert source.train == source.repeats == 21
    assert (steps["cap"][1], steps["augment"], steps["distill"]) == (21, (21, 31), (31, 31))
    assert (steps["repeat"], steps["rehearse"]) == ((31, 52), (52, 52))
    assert len(variations_of(tmp_path / "out")) == 10
    assert manifest.splits["train"].rows == 52


def test_a_turn_that_is_not_learnt_is_not_learnt_of_a_variation(run: Run, tmp_path: Path) -> None:
    rows = source_rows()
    for row in rows:
        first = [{"role": "user", "content": f"Hello {row['topic']}"}]
        first.append({"role": "assistant", "content": "Hello to you, my friend.", "weight": 0})
        row["messages"] = [*first, *row["messages"]]

    def answers(request: ChatRequest) -> str:
        tag = shown(request)["conversation"][0]["user"][6:]
        said = [{"user": f"Of {tag} {n} a b", "assistant": f"It is {tag} {n} c d"} for n in ("one", "two")]
        return answer_json(said)

    run(answers, rows=rows, augment={"variations": 1, "rows": 3})
    made = variations_of(tmp_path / "out")
    assert len(made) == 3
    for row in made:
        assert [each.get("weight") for each in row.messages] == [None, 0, None, None]
