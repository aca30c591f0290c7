from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.data.preparing import prepared
from tunebook_data.fingerprint import preflight, source_digests
from tunebook_data.rows import read_rows
from tunebook_data.suite_files import SUITES, read_suite, read_suites
from tunebook_data.suites import SuiteItem
from tunebook_spec import load
from tunebook_spec.data import Data
from tunebook_spec.errors import DataError

WriteJsonl = Callable[..., Path]
SPEC = """\
version: 1
name: own
base_model: {kind: builtin, name: smollm2-135m-instruct}
data: {sources: [{kind: file, path: suite.jsonl, task: own}]}
method: {kind: full}
evaluation:
  sets: {own: {file: suite.jsonl, metrics: [choice_accuracy]}}
  gates: [{metric: own.choice_accuracy, max_drop: 0.1}]
"""


@pytest.mark.parametrize(
    ("row", "item"),
    [
        ({"q": "a?", "expected_contains": "b"}, SuiteItem("0000", "a?", ("b",), "0000")),
        (
            {"q": "a?", "expected_contains": ["b", "c"], "id": "x", "group": "g", "note": 1},
            SuiteItem("x", "a?", ("b", "c"), "g"),
        ),
        ({"question": "a?", "answer": "6 x 2\n#### 12"}, SuiteItem("0000", "a?", ("12",), "0000")),
        ({"question": "a?", "target": 12}, SuiteItem("0000", "a?", ("12",), "0000")),
        (  # as tables have it
            {"q": None, "question": "a?", "answer": 12.0, "choices": None},
            SuiteItem("0000", "a?", ("12",), "0000"),
        ),
        ({"question": "a?", "answer": 1.5}, SuiteItem("0000", "a?", ("1.5",), "0000")),
        (
            {"question": "a?", "choices": ["b", "c"], "answer": 1, "group": "law", "id": None},
            SuiteItem("0000", "a?", ("c",), "law", ("b", "c")),
        ),
        (
            {"question": "a?", "choices": ["b", "c"], "answer": "B"},
            SuiteItem("0000", "a?", ("c",), "0000", ("b", "c")),
        ),
        (  # a text is meant before a letter
            {"question": "a?", "choices": ["B", "A"], "answer": "B"},
            SuiteItem("0000", "a?", ("B",), "0000", ("B", "A")),
        ),
        (
            {
                "question": "a?",
                "choices": {"text": ["b", "c"], "label": ["1", "2"]},
                "answerKey": 1,
                "id": 7,
            },
            SuiteItem("7", "a?", ("b",), "7", ("b", "c")),
        ),
    ],
)
def test_rows_of_ours_and_of_harnesses_are_read(
    write_jsonl: WriteJsonl, tmp_path: Path, row: dict[str, Any], item: SuiteItem
) -> None:
    write_jsonl([row], "suite.jsonl")
    assert read_suite("suite.jsonl", tmp_path) == [item]


def test_choices_are_listed_below_the_question() -> None:
    assert SuiteItem("0", "Which?", ("b",), "0").prompt == "Which?"
    asked = SuiteItem("0", "Which?", ("b",), "0", ("a", "b")).prompt
    assert asked == "Which?\nAnswer with one of:\n- a\n- b"


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (['{"q": "a?"}'], "suite suite.jsonl:1: expected_contains: Field required; write {"),
        (['{"q": "a?", "expected_contains": " "}'], "expected_contains: Value error, an empty text is in"),
        (['{"question": "a?", "answer": true}'], "suite suite.jsonl:1: answer"),
        (['{"question": "a?", "answer": "so #### "}'], "suite.jsonl:1: `answer` is empty; "),
        (
            ["", '{"question": "a?", "choices": ["b", "c"], "answer": 2}'],
            "suite suite.jsonl:2: `answer` 2 names none of ['b', 'c']; of choices write the text, its",
        ),
        (
            ['{"question": "a?", "choices": ["b", "c"], "answer": "C"}'],
            "`answer` 'C' names none of ['b', 'c']",
        ),
        (['{"question": "a?", "choices": ["2", "1"], "answer": 1}'], "`answer` 1 names none of ['2', '1']"),
        (['{"question": "a?", "choices": ["b"], "answer": 0}'], "one choice is none: list two or more"),
        (['{"question": "a?", "choices": ["b", " "], "answer": 0}'], "suite suite.jsonl:1: choices"),
        (
            ['{"question": "a?", "choices": {"text": ["b", "c"], "label": ["1"]}, "answer": "1"}'],
            "2 choices have 1 labels",
        ),
        (['{"q": '], "suite suite.jsonl:1: not JSON (got '{\"q\":'); write {"),
        (
            [
                '{"q": "a?", "expected_contains": "b", "id": "x"}',
                '{"q": "c?", "expected_contains": "d", "id": "x"}',
            ],
            "suite suite.jsonl:2: a second row has the id 'x'; give each its own",
        ),
        (
            ['{"q": "a?", "expected_contains": "b"}', '{"q": "a?", "expected_contains": "c"}'],
            "suite suite.jsonl:2: asks the same, and would count as a second piece of evidence: keep one of",
        ),
        (["", ""], "suite suite.jsonl: has no row; write {"),
        ([], "is an empty file: "),
    ],
)
def test_what_is_no_suite_is_refused_with_its_line(tmp_path: Path, lines: list[str], told: str) -> None:
    (tmp_path / "suite.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError) as refused:
        read_suite("suite.jsonl", tmp_path)
    assert told in str(refused.value)


def test_its_questions_are_kept_with_the_data_and_nothing_of_them_is_trained_on(
    write_jsonl: WriteJsonl, tmp_path: Path, tiny_llama: Path
) -> None:
    asked = "Who may sign a refund of more than five hundred in the absence of the lead of the team?"
    write_jsonl([{"question": asked, "choices": ["the deputy", "nobody"], "answer": 0}], "suite.jsonl")
    known = [f"{asked} I ask for case {n}." for n in range(10)]
    questions = [*known, *(f"What is {n} and {n}?" for n in range(40))]
    rows = [
        {"messages": [{"role": "user", "content": each}, {"role": "assistant", "content": f"Answer {n}."}]}
        for n, each in enumerate(questions)
    ]
    write_jsonl(rows, "rows.jsonl")
    data = {
        "sources": [{"kind": "file", "path": "rows.jsonl", "task": "own"}],
        "checks": {"min_response_chars": 2},
    }
    made = prepared(tmp_path, tiny_llama, data, inputs={"suite_files": ("suite.jsonl",)})
    leaks = (tmp_path / "out" / "leaks.jsonl").read_text().splitlines()
    assert len(leaks) == sum(made.leaks_by_rule.values()) > 0
    assert all("suite suite.jsonl: 0000" in leak for leak in leaks)
    taught = {row.messages[-2]["content"] for row in read_rows(tmp_path / "out" / "train.jsonl")}
    assert len(taught) > 20
    assert taught.isdisjoint(known)
    (suite,) = read_suites(tmp_path / "out" / SUITES).values()
    assert suite == read_suite("suite.jsonl", tmp_path)
    prepared(tmp_path, tiny_llama, data, out="without")
    assert not (tmp_path / "without" / SUITES).exists()


def test_choice_accuracy_is_refused_before_anything_runs_where_rows_have_no_choices(
    write_jsonl: WriteJsonl, tmp_path: Path
) -> None:
    write_jsonl([{"question": "Why?", "answer": "so"}], "suite.jsonl")
    (tmp_path / "own.yaml").write_text(SPEC)
    found = [str(each) for each in preflight(load(tmp_path / "own.yaml"), assets_dir=tmp_path)]
    (told,) = [each for each in found if "choices" in each]
    assert "evaluation.sets.own.file: 1 rows have no `choices`, which choice_accuracy needs" in told


def test_a_suite_of_other_content_is_another_one(write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    data = Data.model_validate(
        {"sources": [{"kind": "dataset", "name": "medical_glossary", "task": "choice"}]}
    )

    def digest(expected: str) -> str:
        write_jsonl([{"q": "a?", "expected_contains": expected}], "suite.jsonl")
        made = source_digests(data, suite_files=["suite.jsonl"], spec_dir=tmp_path, assets_dir=tmp_path)
        return made["suite:suite.jsonl"]

    assert digest("b") == digest("b") != digest("c")
