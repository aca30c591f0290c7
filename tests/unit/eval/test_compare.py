from __future__ import annotations

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

INPUTS = EvaluateInputs.model_validate({"metrics": {"glossary": ("line_match",), "general": ("contains",)}})


def answers(right: int, *, first: int = 0) -> list[Answer]:
    task = [asked(n, f"AKI: meaning {n}\nMRI: imaging" if n < right else "no") for n in range(first, 40)]
    return [*task, *(general(n, "yes" if n % 3 else "no") for n in range(30))]


def run(folder: Path, number: int, tuned: list[Answer], **more: Any) -> RunEvidence:
    out = folder / str(number)
    out.mkdir()
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
    prepared = Artifact(
        stage="prepare",
        digest="0",
        inputs={"contents": {"file:a.jsonl": "1"}},
        files={"train.jsonl": "aa", "test.jsonl": "bb"},
        result={"splits": {"train": {"rows": 7}, "test": {"rows": 40}}, "summary": "7 rows"},
        seconds=1,
        finished_at=datetime.now(UTC),
    )
    return RunEvidence(record, prepared, evaluate(INPUTS, arms=arms, judges={}, out=out), tuned)


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
    assert "+0.500   +0.3" in text


def test_other_rows_and_versions_are_differences(tmp_path: Path) -> None:
    one = run(tmp_path, 1, answers(10))
    other = run(tmp_path, 2, answers(10), versions={"torch": "2.14.0"}, git_commit="abc")
    changed = other.prepared.model_copy(update={"files": {"train.jsonl": "cc", "test.jsonl": "bb"}})
    found = compare(one, RunEvidence(other.record, changed, other.report, other.answers))
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
