from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tunebook_data.suites import load_suite
from tunebook_eval.decide import decide
from tunebook_eval.evidence import ArmScores, Estimate, EvalReport
from tunebook_eval.verdict import GateResult, GateVerdict
from tunebook_plan.shipped import shipped_folder
from tunebook_spec import load
from tunebook_spec.evaluation import Gate


def arm(name: str, scores: list[float], **more: Any) -> ArmScores:
    estimate = Estimate(
        num_samples=len(scores), num_groups=len(scores), mean=float(np.mean(scores)), stderr=None, ci95=None
    )
    facts = {"set": "glossary", "metric": "line_match", "is_rule": False, "strata": {}, "num_unscored": 0}
    by_item = {str(number): score for number, score in enumerate(scores)}
    return ArmScores(**{**facts, **more}, arm=name, overall=estimate, scores=by_item)


def judge(*arms: ArmScores, groups: int | None = None, **gate: Any) -> GateResult:
    count = len(arms[0].scores)
    of = {str(number): f"g{number % (groups or count)}" for number in range(count)}
    report = EvalReport(scores=arms, groups={"glossary": of}, costs=(), flips=(), examples=(), warnings=())
    (result,) = decide(report, (Gate(metric="glossary.line_match", **gate),), {}).results
    return result


def test_general_questions_without_one_of_the_task_form_pass_their_gate() -> None:
    """Nothing varies then, and the bound is that of as many groups as the suite has."""
    items = load_suite("general")
    scores = arm("tuned", [0.0] * len(items), set="general", metric="task_form")
    groups = {"general": {str(number): item.group for number, item in enumerate(items)}}
    report = EvalReport(scores=(scores,), groups=groups, costs=(), flips=(), examples=(), warnings=())
    for file in shipped_folder().glob("*.yaml"):
        (gate,) = {each for each in load(file).spec.evaluation.gates if each.metric == "general.task_form"}
        (result,) = decide(report, (gate,), {}).results
        assert result.outcome == "pass", file


def test_a_drop_that_is_not_excluded_comes_with_what_to_try() -> None:
    def advice(before: int, after: int, **gate: Any) -> tuple[str, ...]:
        arms = (arm("base", binary(before)), arm("tuned", binary(after)))
        return GateVerdict(results=(judge(*arms, **gate),)).advice

    (fell,) = advice(90, 40, max_drop=0.05)
    assert fell == (
        "glossary.line_match fell too far: rehearse more (data.replay.share), lower method.learning_rate, or"
        " train fewer method.epochs"
    )
    (may,) = advice(90, 87, max_drop=0.05)
    assert "may have fallen too far" in may
    assert advice(50, 90, max_drop=0.05) == () == advice(10, 40, at_least=0.9)


def binary(ones: int, count: int = 100) -> list[float]:
    return [1.0] * ones + [0.0] * (count - ones)


@pytest.mark.parametrize(
    ("ones", "outcome"),
    [(95, "pass"), (85, "inconclusive"), (88, "inconclusive"), (60, "fail")],
    ids=["whole bound clears", "at the threshold", "mean clears and the bound does not", "bound excludes"],
)
def test_at_least_has_three_outcomes(ones: int, outcome: str) -> None:
    assert judge(arm("tuned", binary(ones)), at_least=0.85).outcome == outcome


def test_an_inconclusive_gate_says_how_many_rows_would_settle_it() -> None:
    result = judge(arm("tuned", binary(88)), at_least=0.85)
    assert result.detectable == pytest.approx(2.4865 * (0.88 * 0.12 / 99) ** 0.5, rel=1e-4)
    assert result.note == "about 390 rows would settle it; these rows show 0.081 either way, 4 times in 5"
    assert result.line() == (
        "inconclusive  glossary.line_match >= 0.85  0.880, 95 % above 0.816 (n=100); "
        "about 390 rows would settle it; these rows show 0.081 either way, 4 times in 5"
    )
    settled = judge(arm("tuned", binary(344, 390)), at_least=0.85)
    assert settled.outcome == "pass"


def test_a_line_reads_as_in_the_command() -> None:
    line = judge(arm("tuned", binary(93)), at_least=0.85).line(30)
    assert line == "pass          glossary.line_match >= 0.85     0.930, 95 % above 0.876 (n=100)"


def test_gain_is_over_the_better_of_few_shot_and_the_best_rule() -> None:
    tuned, few_shot = arm("tuned", binary(90)), arm("few_shot", binary(20))
    rules = (
        arm("copy", binary(50), is_rule=True),
        arm("lookup", binary(99), is_rule=True, is_reference=True),
    )
    base = arm("base", binary(70))
    result = judge(tuned, few_shot, *rules, base, gain_over="best_baseline", at_least=0.2)
    assert (result.outcome, result.compared_with) == ("pass", "copy")
    assert result.value == pytest.approx(0.4)
    assert (
        judge(
            tuned,
            few_shot,
            arm("retrieval", binary(60)),
            *rules,
            base,
            gain_over="best_baseline",
            at_least=0.2,
        ).compared_with
        == "retrieval"
    )
    better = arm("few_shot", binary(85))
    result = judge(tuned, better, *rules, gain_over="best_baseline", at_least=0.2)
    assert (result.outcome, result.compared_with) == ("fail", "few_shot")


def test_a_gain_above_zero_of_binary_scores_needs_the_exact_test() -> None:
    other = arm("few_shot", binary(0, 40))
    five = judge(arm("tuned", binary(5, 40)), other, gain_over="few_shot", at_least=0.0)
    assert (five.outcome, five.p_value) == ("pass", pytest.approx(1 / 32))
    four = judge(arm("tuned", binary(4, 40)), other, gain_over="few_shot", at_least=0.0)
    assert four.low is not None
    assert four.low > 0
    assert (four.outcome, four.p_value) == ("inconclusive", pytest.approx(1 / 16))


@pytest.mark.parametrize(
    ("lost", "outcome"),
    [(0, "pass"), (4, "inconclusive"), (40, "fail")],
    ids=["nothing lost", "may be more", "surely more"],
)
def test_max_drop_passes_when_the_bound_on_the_drop_is_below_it(lost: int, outcome: str) -> None:
    base, tuned = arm("base", binary(160, 200)), arm("tuned", binary(160 - lost, 200))
    assert judge(tuned, base, max_drop=0.03).outcome == outcome


def test_a_drop_is_printed_as_a_drop() -> None:
    base, tuned = arm("base", binary(160, 200)), arm("tuned", binary(120, 200))
    passed = judge(base.model_copy(update={"arm": "tuned"}), base, max_drop=0.05)
    failed = judge(tuned, base, max_drop=0.05)
    assert "drop < 0.05  0.000, 95 % below 0.013" in passed.line()
    assert "drop < 0.05  0.200, 95 % above 0.1" in failed.line()


@pytest.mark.parametrize(
    ("ones", "outcome", "line"),
    [
        (2, "pass", "<= 0.15  0.020, 95 % below 0.0"),
        (15, "inconclusive", "<= 0.15  0.150, 95 % below 0.2"),
        (40, "fail", "<= 0.15  0.400, 95 % above 0.3"),
    ],
)
def test_at_most_passes_when_the_whole_bound_is_below(ones: int, outcome: str, line: str) -> None:
    result = judge(arm("tuned", binary(ones)), at_most=0.15)
    assert result.outcome == outcome
    assert line in result.line()


def test_at_most_over_the_baselines_is_held_against_the_lowest() -> None:
    arms = (arm("tuned", binary(10)), arm("few_shot", binary(50)), arm("copy", binary(70), is_rule=True))
    result = judge(*arms, gain_over="best_baseline", at_most=-0.2)
    assert (result.outcome, result.compared_with) == ("pass", "few_shot")
    assert "glossary.line_match gain over best_baseline <= -0.2  -0.400, 95 % below -0.3" in result.line()


def test_any_arm_can_be_judged() -> None:
    arms = (arm("tuned", binary(10)), arm("few_shot", binary(95)), arm("base", binary(90)))
    result = judge(*arms, arm="few_shot", max_drop=0.1)
    assert (result.outcome, result.value, result.compared_with) == ("pass", pytest.approx(0.05), "base")
    assert result.rule == "few_shot glossary.line_match drop < 0.1"
    with pytest.raises(ValueError, match="base is held against itself"):
        judge(*arms, arm="base", max_drop=0.1)


def test_equal_scores_outside_of_0_to_1_bound_nothing() -> None:
    result = judge(arm("tuned", [40.0] * 50), at_most=50)
    assert (result.outcome, result.low) == ("inconclusive", None)
    assert result.note == "every row has this value, which bounds nothing outside of 0 to 1"


def test_fractional_scores_are_paired_by_item_and_clustered_by_group() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(120) * 0.5
    tuned = base + rng.normal(0.1, 0.05, 120)
    free = judge(arm("tuned", list(tuned)), arm("base", list(base)), gain_over="base", at_least=0.08)
    assert free.outcome == "pass"
    by_group = np.repeat(rng.normal(0.1, 0.2, 6), 20)  # what differs is the group, not the row
    grouped = [f"g{number % 6}" for number in range(120)]
    assert len(set(grouped)) == 6
    tuned = base + by_group.reshape(6, 20).T.ravel()
    clustered = judge(
        arm("tuned", list(tuned)), arm("base", list(base)), groups=6, gain_over="base", at_least=0.08
    )
    assert clustered.outcome == "inconclusive"


@pytest.mark.parametrize(
    ("scores", "groups"), [([1.0], None), ([0.9, 0.8, 0.7], 1)], ids=["one row", "one group"]
)
def test_too_thin_to_bound_is_inconclusive_never_a_pass(scores: list[float], groups: int | None) -> None:
    result = judge(arm("tuned", scores), groups=groups, at_least=0.1)
    assert (result.outcome, result.low) == ("inconclusive", None)
    assert "too few to bound" in result.note


def test_what_was_not_scored_is_inconclusive() -> None:
    unscored = arm("tuned", [1.0]).model_copy(update={"scores": {}, "overall": None})
    assert judge(unscored, at_least=0.1).note == "the tuned model has no score here"
    alone = judge(arm("tuned", binary(9, 10)), gain_over="best_baseline", at_least=0.0)
    assert (alone.outcome, alone.value) == ("inconclusive", None)


def test_the_verdict_is_its_worst_gate() -> None:
    report = EvalReport(
        scores=(arm("tuned", binary(88)),),
        groups={"glossary": {str(number): str(number) for number in range(100)}},
        costs=(),
        flips=(),
        examples=(),
        warnings=(),
    )

    def verdict(*bounds: float) -> tuple[str, int, str]:
        gates = tuple(Gate(metric="glossary.line_match", at_least=bound) for bound in bounds)
        decided = decide(report, gates, {})
        return decided.outcome, decided.exit_status, decided.lines[-1]

    assert verdict(0.5) == ("pass", 0, "verdict: pass (1 pass, 0 fail, 0 inconclusive)")
    assert verdict(0.5, 0.88)[:2] == ("inconclusive", 4)
    assert verdict(0.5, 0.88, 0.99) == ("fail", 3, "verdict: fail (1 pass, 1 fail, 1 inconclusive)")
