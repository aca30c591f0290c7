from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.eval.answers_on_disk import asked, general, leave
from tunebook_eval.evaluate import evaluate, read_report
from tunebook_eval.evidence import ArmScores, EvalReport
from tunebook_eval.inputs import EvaluateInputs

INPUTS = EvaluateInputs(metrics={"glossary": ("line_match", "exact_match"), "general": ("contains",)})


@pytest.fixture
def report(tmp_path: Path) -> EvalReport:
    half = [asked(number, "AKI: wrong\nMRI: imaging") for number in range(6)]
    right = [asked(number, f"AKI: meaning {number}\nMRI: imaging") for number in range(5)]
    failed = asked(5, "", finish_reason="error", error="too long")
    cut = asked(0, "MRI: imaging", finish_reason="length", completion_tokens=40)
    arms = {
        "base": [*half, general(0, "yes"), general(1, "no"), general(2, "yes")],
        "tuned": [cut, *right[1:][::-1], failed, general(0, "no"), general(1, "yes"), general(2, "yes")],
        "baselines": [asked(n, "MRI: imaging", rule="majority") for n in range(6)]
        + [asked(n, "", rule="lookup", is_reference=True) for n in range(6)],
    }
    folders = {arm: leave(tmp_path, arm, answers) for arm, answers in arms.items()}
    made = evaluate(INPUTS, arms=folders, out=tmp_path)
    assert read_report(tmp_path) == made
    return made


def of(report: EvalReport, metric: str, arm: str) -> ArmScores:
    (found,) = [each for each in report.of(metric) if each.arm == arm]
    return found


def test_each_metric_comes_with_its_n_error_and_strata(report: EvalReport) -> None:
    base = of(report, "glossary.line_match", "base")
    assert base.overall is not None
    assert (base.overall.mean, base.overall.num_samples, base.overall.num_groups) == (0.5, 6, 3)
    assert {stratum: each.num_samples for stratum, each in base.strata.items()} == {"seen": 3, "unseen": 3}
    tuned = of(report, "glossary.line_match", "tuned")
    assert tuned.scores == {"000": 0.5, "001": 1.0, "002": 1.0, "003": 1.0, "004": 1.0}
    assert tuned.overall is not None
    assert tuned.overall.stderr is not None
    assert tuned.overall.ci95 is None  # three groups bound nothing
    assert tuned.num_unscored == 1


def test_rules_stand_beside_the_models(report: EvalReport) -> None:
    majority, lookup = (of(report, "glossary.line_match", name) for name in ("majority", "lookup"))
    assert majority.overall is not None
    assert (majority.is_rule, majority.is_reference, majority.overall.mean) == (True, False, 0.5)
    assert (lookup.is_rule, lookup.is_reference) == (True, True)
    assert {each.arm for each in report.of("general.contains")} == {"base", "tuned"}


def test_items_lost_and_gained_are_listed_lost_first(report: EvalReport) -> None:
    assert [(each.item, each.lost) for each in report.flips] == [("000", True), ("001", False)]


def test_stop_rate_and_length_are_per_set_and_arm(report: EvalReport) -> None:
    (tuned,) = [each for each in report.answering if (each.set, each.arm) == ("glossary", "tuned")]
    assert tuned.stop_rate == pytest.approx(4 / 6)
    assert tuned.mean_completion_tokens == pytest.approx((5 * 10 + 40) / 6)


def test_examples_put_the_worst_regression_first(report: EvalReport) -> None:
    first = next(each for each in report.examples if each.set == "general")
    assert (first.item, first.answers, first.scores) == (
        "000",
        {"base": "yes", "tuned": "no"},
        {"base": 1.0, "tuned": 0.0},
    )
    (failed,) = [each for each in report.examples if each.set == "glossary" and each.item == "005"]
    assert failed.answers["tuned"] == "too long"


def test_thin_sets_and_unscored_answers_are_said(report: EvalReport) -> None:
    assert "glossary.line_match: 1 answers could not be scored" in report.warnings
    thin = "general.contains is thin: 3 rows in 2 groups; 200 in 20 are a sound least"
    assert thin in report.warnings


def test_the_order_of_finishing_does_not_matter(tmp_path: Path) -> None:
    answers = [asked(number, "MRI: imaging" if number % 3 else "") for number in range(12)]
    made = []
    for name, order in (("a", answers), ("b", answers[::-1])):
        folder = tmp_path / name
        folder.mkdir()
        arms = {arm: leave(folder, arm, order) for arm in ("base", "tuned")}
        inputs = EvaluateInputs(metrics={"glossary": ("line_match",)})
        made.append(evaluate(inputs, arms=arms, out=folder))
    assert made[0] == made[1]
