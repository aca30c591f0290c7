from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.unit.eval.answers_on_disk import asked, general, leave
from tunebook_eval.answers import Answer
from tunebook_eval.compare import Comparison, RunEvidence, compare, describe
from tunebook_eval.evaluate import evaluate
from tunebook_eval.inputs import EvaluateInputs
from tunebook_eval.statistics import difference_bounds, holm, paired_p_value
from tunebook_run.record import RunRecord
from tunebook_run.stages import Artifact

METRICS: dict[str, list[Any]] = {"glossary": ["line_match"], "general": ["contains"]}
NUMBER = {"kind": "numeric", "name": "number"}


def answers(right: int, *, first: int = 0) -> list[Answer]:
    task = [asked(n, f"AKI: meaning {n}\nMRI: imaging" if n < right else "no") for n in range(first, 40)]
    return [*task, *(general(n, "yes" if n % 3 else "no") for n in range(30))]


def artifact(stage: str, fields: dict[str, Any], **more: Any) -> Artifact:
    inputs = {"format": 5, "fields": fields, "contents": {}, "libraries": {"ruff": "0.13.0"}}
    return Artifact.model_validate(
        {
            "stage": stage,
            "digest": "0",
            "inputs": inputs,
            "files": {},
            "result": {},
            "seconds": 1,
            "finished_at": datetime.now(UTC),
            **more,
        }
    )


def run(
    folder: Path,
    number: int,
    tuned: list[Answer],
    *,
    metrics: dict[str, list[Any]] = METRICS,
    max_tokens: int = 64,
    **more: Any,
) -> RunEvidence:
    out = folder / str(number)
    out.mkdir()
    inputs = EvaluateInputs.model_validate({"metrics": metrics})
    arms = {"base": leave(out, "base", answers(5)), "tuned": leave(out, "tuned", tuned)}
    record = RunRecord.model_validate(
        {
            "scenario": "medical",
            "number": number,
            "profile": None,
            "status": "pass",
            "started_at": datetime.now(UTC),
            "spec": {"method": {"epochs": number, "kind": "full"}},
            "seed": 0,
            "git_commit": None,
            "versions": {"torch": "2.13.0"},
            "verdict": ["verdict: pass"],
            **more,
        }
    )
    prepared = artifact(
        "prepare",
        {},
        inputs={"contents": {"file:a.jsonl": "1"}},
        files={"train.jsonl": "aa", "test.jsonl": "bb"},
        result={"splits": {"train": {"rows": 7}, "test": {"rows": 40}}, "summary": "7 rows"},
    )
    sets = {name: {"max_tokens": max_tokens, "json_schema": None} for name in metrics}
    return RunEvidence(
        record,
        prepared,
        artifact("evaluate", inputs.model_dump(mode="json")),
        artifact("answer-tuned", {"sets": sets, "temperature": 0.0}),
        evaluate(inputs, arms=arms, judges={}, out=out),
        {"tuned": tuned},
    )


@pytest.fixture
def compared(tmp_path: Path) -> Comparison:
    return compare(run(tmp_path, 1, answers(10)), run(tmp_path, 2, answers(30)))


def test_metrics_are_paired_row_by_row_with_the_statistics_of_a_report(compared: Comparison) -> None:
    line, contains = compared.changes
    scores = [[1.0 if n < right else 0.0 for n in range(40)] for right in (30, 10)]
    groups = [f"context-{n // 2}" for n in range(40)]
    bounds = difference_bounds(*scores, groups, alpha=0.025)
    p = paired_p_value(*scores, groups)
    assert (line.set, line.metric, line.num_samples) == ("glossary", "line_match", 40)
    assert (line.mean, line.ci95) == (pytest.approx(0.5), (bounds.low, bounds.high))
    assert p is not None
    assert [line.p_value, line.adjusted_p_value] == [p, holm([p, 1.0])[0]]
    assert (contains.mean, contains.p_value) == (0.0, 1.0)


def test_what_differs_is_listed_and_the_rest_is_said_to_be_the_same(compared: Comparison) -> None:
    text = describe(compared)
    assert [each.path for each in compared.spec] == ["method.epochs"]
    assert " method.epochs   1           2" in text
    assert " data: the same" in text
    assert " medical@1: 7 train, 40 test rows" in text
    assert " versions: the same" in text
    assert " medical@2: verdict: pass" in text
    assert "+0.500   +0.260 to +0.740" in text


def test_other_rows_and_versions_are_differences(tmp_path: Path) -> None:
    one = run(tmp_path, 1, answers(10))
    other = run(tmp_path, 2, answers(10), versions={"torch": "2.14.0"}, git_commit="abc")
    changed = other.prepared.model_copy(update={"files": {"train.jsonl": "cc", "test.jsonl": "bb"}})
    found = compare(one, replace(other, prepared=changed))
    assert [each.path for each in found.data] == ["sha256.train.jsonl"]
    assert {each.path: each.shown for each in found.versions} == {
        "git_commit": ("null", "abc"),
        "torch": ("2.13.0", "2.14.0"),
    }


def test_a_set_with_other_test_rows_is_not_paired_and_says_why(tmp_path: Path) -> None:
    found = compare(run(tmp_path, 1, answers(10)), run(tmp_path, 2, answers(30, first=10)))
    assert [each.set for each in found.changes] == ["general"]
    why = "glossary: not paired, the test rows differ (40 and 30, 30 the same in both)"
    text = describe(found)
    assert f" {why}\n" in text
    assert "40, 30" in text, "the means stand alone, each with its n"


def test_rows_of_one_id_that_ask_another_question_are_other_rows(tmp_path: Path) -> None:
    other = [each.model_copy(update={"question": "another"}) for each in answers(10)]
    found = compare(run(tmp_path, 1, answers(10)), run(tmp_path, 2, other))
    assert found.changes == ()
    assert set(found.unpaired) == {"glossary", "general"}


def test_a_metric_with_other_arguments_is_defined_differently_and_not_compared(tmp_path: Path) -> None:
    loose = {**METRICS, "glossary": ["line_match", {**NUMBER, "tolerance": 0.5}]}
    exact = {**METRICS, "glossary": ["line_match", NUMBER]}
    numbers = [each.model_copy(update={"reference": "5", "text": "5.4"}) for each in answers(0)]
    found = compare(run(tmp_path, 1, numbers, metrics=loose), run(tmp_path, 2, numbers, metrics=exact))
    assert [(each.set, each.metric) for each in found.changes] == [
        ("glossary", "line_match"),
        ("general", "contains"),
    ]
    assert found.unlike == {("glossary", "number"): "tolerance (0.5, 0.0)"}
    told = " glossary.number: defined differently: tolerance (0.5, 0.0); medical@1 1.000 ± 0.000 (n=40), "
    assert f"{told}medical@2 0.000 ± 0.000 (n=40)\n" in (text := describe(found))
    assert text.count("glossary.number") == 1, "it is in no table"


def test_answers_of_another_length_are_not_compared(tmp_path: Path) -> None:
    found = compare(run(tmp_path, 1, answers(10)), run(tmp_path, 2, answers(30), max_tokens=128))
    assert found.changes == ()
    told = "glossary.line_match: defined differently: max_tokens (64, 128); medical@1 0.250 ± "
    assert told in describe(found)
