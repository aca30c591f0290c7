from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.eval.answers_on_disk import asked, general, leave
from tunebook_eval.answers import Answer
from tunebook_eval.decide import decide, judged_arms
from tunebook_eval.evaluate import evaluate, read_report
from tunebook_eval.evidence import ArmScores, EvalReport, Example
from tunebook_eval.examples import MAX_TEXT, choose_examples
from tunebook_eval.inputs import EvaluateInputs
from tunebook_spec.evaluation import Gate

INPUTS = EvaluateInputs.model_validate(
    {"metrics": {"glossary": ("line_match", "exact_match"), "general": ("contains",)}}
)


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
    made = evaluate(INPUTS, arms=folders, judges={}, out=tmp_path)
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


def test_changes_are_tuned_minus_base_with_p_values_for_their_number(tmp_path: Path) -> None:
    def answers(right: int) -> list[Answer]:
        task = [asked(n, "MRI: imaging" if n < right else "", group=f"g{n}") for n in range(40)]
        return [*task, *(general(n, "yes") for n in range(40))]

    arms = {arm: leave(tmp_path, arm, answers(right)) for arm, right in (("base", 10), ("tuned", 30))}
    line, exact, contains = evaluate(INPUTS, arms=arms, judges={}, out=tmp_path).changes
    assert (line.set, line.metric, line.num_samples, line.mean) == ("glossary", "line_match", 40, 0.25)
    assert line.p_value == pytest.approx(2 / 2**20, abs=3e-4)
    assert line.adjusted_p_value == pytest.approx(3 * (line.p_value or 0))
    assert (line.outcome_of(), exact.outcome_of()) == ("improved", "unclear")
    assert (contains.mean, contains.p_value, contains.adjusted_p_value) == (0.0, 1.0, 1.0)


def test_items_lost_and_gained_are_listed_lost_first(report: EvalReport) -> None:
    assert [(each.item, each.lost) for each in report.flips] == [("000", True), ("001", False)]


def test_of_choices_too_what_is_lost_and_gained_is_listed(tmp_path: Path) -> None:
    def chosen(number: int, text: str) -> Answer:
        more = {"expected": ("tin",), "meta": {"choices": ["tin", "tin and lead"]}, "reference": None}
        return asked(number, text, set="own", **more)

    arms = {
        "base": leave(tmp_path, "base", [chosen(0, "Tin."), chosen(1, "tin"), chosen(2, "gold")]),
        "tuned": leave(
            tmp_path, "tuned", [chosen(0, "tin and lead"), chosen(1, "It is tin"), chosen(2, "tin")]
        ),
    }
    inputs = EvaluateInputs.model_validate({"metrics": {"own": ["choice_accuracy"]}})
    made = evaluate(inputs, arms=arms, judges={}, out=tmp_path)
    found = [(each.item, each.metric, each.lost) for each in made.flips]
    assert found == [("000", "choice_accuracy", True), ("002", "choice_accuracy", False)]


def test_what_tuned_left_empty_or_was_cut_in_is_warned_of_and_shown(tmp_path: Path) -> None:
    cut = {"finish_reason": "length"}
    tuned = [
        asked(0, ""),
        asked(1, "AKI: meaning", **cut),
        asked(2, "a"),
        asked(3, "", error="no", finish_reason="error"),
    ]
    arms = {
        "base": leave(tmp_path, "base", [*(asked(n, "", **cut) for n in range(4)), general(0, "yes")]),
        "tuned": leave(tmp_path, "tuned", [*tuned, general(0, "yes, and so on").model_copy(update=cut)]),
    }
    made = evaluate(INPUTS, arms=arms, judges={}, out=tmp_path)
    told = [each for each in made.warnings if " answers of tuned " in each]
    assert told == [
        "glossary: 1 of 3 answers of tuned are empty",
        "glossary: 1 of 3 answers of tuned were cut at its `max_tokens`; raise it",
    ]
    ended = {each.item: each.ended.get("tuned") for each in made.examples if each.set == "glossary"}
    assert ended == {"000": None, "001": "cut off", "002": None, "003": "failed"}


def test_stop_rate_and_length_are_metrics_of_every_set_a_failed_answer_aside(report: EvalReport) -> None:
    stops, tokens = (of(report, f"glossary.{metric}", "tuned") for metric in ("stop_rate", "answer_tokens"))
    assert stops.overall is not None
    assert (stops.overall.mean, stops.overall.num_samples, stops.num_unscored) == (0.8, 5, 1)
    assert tokens.overall is not None
    assert tokens.overall.mean == (4 * 10 + 40) / 5
    assert tokens.overall.stderr is not None
    assert {each.arm for each in report.of("general.stop_rate")} == {"base", "tuned"}, "rules do not stop"


def test_the_share_of_unscored_answers_has_its_own_error(report: EvalReport) -> None:
    tuned = of(report, "glossary.line_match", "tuned")
    assert tuned.unscored is not None
    assert (tuned.unscored.mean, tuned.unscored.num_samples) == (pytest.approx(1 / 6), 6)
    gate = Gate(metric="glossary.line_match.unscored", at_most=0.5)
    (result,) = decide(report, (gate,), {}).results
    assert (result.value, result.num_samples) == (pytest.approx(1 / 6), 6)


def test_parts_of_a_metric_are_scored_where_they_say_something(tmp_path: Path) -> None:
    said = [asked(n, '{"plan": "pro"}', reference='{"plan": "pro"}') for n in range(5)]
    silent = asked(5, '{"plan": null}', reference="{}")
    arms = {arm: leave(tmp_path, arm, [*said, silent]) for arm in ("base", "tuned")}
    inputs = EvaluateInputs.model_validate({"metrics": {"glossary": ["json_fields"]}})
    made = evaluate(inputs, arms=arms, judges={}, out=tmp_path)
    plan = of(made, "glossary.json_fields.plan.recall", "tuned")
    assert plan.overall is not None
    assert (plan.overall.num_samples, plan.num_unscored, plan.unscored) == (5, 0, None)
    assert "glossary.json_fields.plan.recall" in judged_arms(made)
    assert "glossary.json_fields.unscored" in judged_arms(made)


def test_a_report_of_before_can_still_be_judged(tmp_path: Path, report: EvalReport) -> None:
    old = json.loads((tmp_path / "report.json").read_text())
    old["answering"] = [{"set": "glossary", "arm": "tuned", "stop_rate": 1.0}]
    old["scores"] = [each for each in old["scores"] if each["metric"] not in ("stop_rate", "answer_tokens")]
    for each in old["scores"]:
        del each["unscored"]
    (tmp_path / "report.json").write_text(json.dumps(old))
    gate = Gate(metric="glossary.line_match.unscored", at_most=0.5)
    assert decide(read_report(tmp_path), (gate,), {}) == decide(report, (gate,), {})


def test_examples_put_the_worst_regression_first(report: EvalReport) -> None:
    first = next(each for each in report.examples if each.set == "general")
    assert (first.item, first.answers, first.scores) == (
        "000",
        {"base": "yes", "tuned": "no"},
        {"base": 1.0, "tuned": 0.0},
    )
    (failed,) = [each for each in report.examples if each.set == "glossary" and each.item == "005"]
    assert failed.answers["tuned"] == "too long"


def test_all_items_are_examples_within_what_a_report_holds_and_the_sets_take_turns(tmp_path: Path) -> None:
    long = "x" * (MAX_TEXT + 1)
    answers = [*(asked(n, "ab", question="q", reference="r") for n in range(9)), general(0, long)]

    def kept(max_total: int) -> list[Example]:
        arms = {"base": answers, "tuned": answers}
        return list(choose_examples(INPUTS.metrics, (), arms, max_total=max_total))

    assert [each.set for each in kept(10**6)] == ["glossary"] * 9 + ["general"]
    (whole,) = [each for each in kept(10**6) if each.set == "general"]
    assert whole.answers["tuned"] == f"{'x' * MAX_TEXT} [1 more characters]"
    size, large = len("qrabab"), len("note 0yes") + 2 * len(whole.answers["tuned"])
    assert [each.set for each in kept(4 * size + large)] == ["glossary"] * 4 + ["general"]


def test_consistency_is_of_those_that_were_asked_again_by_what_they_say(tmp_path: Path) -> None:
    said = {0: ("a", ["A.", "a", "b", None]), 1: ('{"x": 1, "y": 2}', ['{"y":2,"x":1}']), 2: ("a", [])}
    answers = [asked(n, text) for n, (text, _) in said.items()]
    for n, (_, others) in said.items():
        for frame, other in enumerate(others):
            answers.append(asked(n, other or "", reworded=frame, error=None if other else "cut"))
    arms = {arm: leave(tmp_path, arm, answers) for arm in ("base", "tuned")}
    arms["baselines"] = leave(tmp_path, "baselines", [asked(n, "a", rule="majority") for n in range(3)])
    inputs = EvaluateInputs.model_validate({"metrics": {"glossary": ["consistency", "exact_match"]}})
    made = evaluate(inputs, arms=arms, judges={}, out=tmp_path)
    found = of(made, "glossary.consistency", "tuned")
    assert found.scores == {"000": pytest.approx(2 / 3), "001": 1.0}
    assert (found.num_unscored, of(made, "glossary.exact_match", "tuned").num_unscored) == (0, 0)
    assert {each.arm for each in made.of("glossary.consistency")} == {"base", "tuned"}
    assert "glossary.consistency.unscored" not in judged_arms(made)
    assert [each.num_queries for each in made.queries] == [3, 3], "what is asked again is no query"


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
        inputs = EvaluateInputs.model_validate({"metrics": {"glossary": ("line_match",)}})
        made.append(evaluate(inputs, arms=arms, judges={}, out=folder))
    assert made[0] == made[1]
