from __future__ import annotations

from typing import Any

import pytest

from tests.unit.eval.answers_on_disk import asked, general
from tunebook_eval.answers import Answer, AnswerResult, Timed
from tunebook_eval.costs import of_shared_sets, query_costs, update_seconds
from tunebook_eval.evidence import QueryCost


def result(arm: str, **timed: tuple[int, float]) -> AnswerResult:
    return AnswerResult(
        arm=arm,
        num_answers=0,
        num_errors=0,
        prompt_tokens=0,
        completion_tokens=0,
        seconds=99.0,
        num_resumed=0,
        timed={name: Timed(num_answers=num, seconds=seconds) for name, (num, seconds) in timed.items()},
    )


def costs(**arms: tuple[list[Answer], AnswerResult]) -> dict[tuple[str, str], QueryCost]:
    answers = {arm: of_arm for arm, (of_arm, _) in arms.items()}
    results = {arm: result for arm, (_, result) in arms.items()}
    return {(each.set, each.arm): each for each in query_costs(answers, results)}


def test_a_query_takes_what_its_answers_took_on_average() -> None:
    failed = asked(2, "", finish_reason="error", error="too long", prompt_tokens=9999)
    text = asked(0, "", set="texts", log_likelihood=-1.0)
    rule = asked(0, "", rule="copy")
    answers = [asked(0, "a"), asked(1, "b", prompt_tokens=40, cached_tokens=16, completion_tokens=2), failed]
    found = costs(base=([*answers, text], result("base", glossary=(2, 3.0))), copy=([rule], result("copy")))
    assert list(found) == [("glossary", "base")], "neither fixed texts nor rules are queries"
    cost = found["glossary", "base"]
    assert (cost.num_queries, cost.num_timed) == (2, 2)
    assert (cost.prompt_tokens, cost.cached_tokens, cost.answer_tokens) == (30, 14, 6)
    assert cost.seconds == 1.5


def test_a_query_of_a_model_elsewhere_costs_what_its_tokens_do() -> None:
    priced = result("gpt-x", glossary=(2, 3.0)).model_copy(update={"prices": (10.0, 50.0), "is_remote": True})
    answers = [asked(0, "a"), asked(1, "b", prompt_tokens=40, completion_tokens=2)]
    there = costs(**{"gpt-x": (answers, priced)})["glossary", "gpt-x"]
    assert there.cost == pytest.approx((30 * 10 + 6 * 50) / 1e6)
    assert there.cost_of_1000(None) == there.cost_of_1000(0.01) == pytest.approx(0.6)
    (together,) = of_shared_sets([there])
    assert together.cost == there.cost
    here = costs(base=(answers, result("base", glossary=(2, 3.0))))["glossary", "base"]
    assert (here.cost_of_1000(0.01), here.cost_of_1000(None)) == (pytest.approx(15.0), None)


def test_what_a_killed_attempt_answered_counts_for_tokens_and_not_for_time() -> None:
    answers = [asked(number, "a", completion_tokens=number) for number in range(5)]
    resumed = costs(base=(answers, result("base", glossary=(1, 2.0))))["glossary", "base"]
    assert (resumed.num_queries, resumed.num_timed, resumed.seconds) == (5, 1, 2.0)
    assert resumed.answer_tokens == 2
    found = costs(base=(answers, result("base")))["glossary", "base"]
    assert (found.num_timed, found.seconds) == (0, None)


def test_arms_are_compared_by_the_sets_that_all_of_them_answered() -> None:
    task, other = [asked(0, "a"), asked(1, "b")], [asked(0, "c", set="choice", completion_tokens=4)]
    base = [*task, *other, *(general(n, "yes") for n in range(50))]
    few_shot = [each.model_copy(update={"prompt_tokens": 200}) for each in [*task, *other]]
    found = costs(
        base=(base, result("base", glossary=(1, 1.0), choice=(1, 4.0), general=(50, 0.5))),
        few_shot=(few_shot, result("few_shot", glossary=(2, 4.0))),
    )
    of_base, of_shots = of_shared_sets(list(found.values()))
    assert (of_base.arm, of_base.set, of_base.num_queries) == ("base", "glossary, choice", 3)
    assert of_base.answer_tokens == (2 * 10 + 4) / 3
    assert of_base.seconds == (2 * 1.0 + 4.0) / 3, "by the number of queries, not by how many were timed"
    assert (of_shots.prompt_tokens, of_shots.seconds) == (200, None), "choice was not timed"


def test_arms_that_share_no_set_are_not_compared() -> None:
    found = costs(base=([general(0, "yes")], result("base")), few_shot=([asked(0, "a")], result("few_shot")))
    assert of_shared_sets(list(found.values())) == []
    assert of_shared_sets([]) == []


@pytest.mark.parametrize(
    ("passed", "seconds"),
    [([1.0, 2.0, 30.0], 50.0), ([1.0, 20.0, 3.0, 30.0], 70.0), ([9.0, 1.0, 9.0, 1.0], 68.0)],
    ids=["one attempt", "killed once", "killed twice"],
)
def test_an_update_is_training_and_merging_with_the_steps_of_killed_attempts(
    passed: list[float], seconds: float
) -> None:
    stages: list[dict[str, Any]] = [
        {"name": "prepare", "seconds": 7.0},
        {"name": "train", "seconds": 40.0},
        {"name": "merge", "seconds": 10.0},
    ]
    metrics: list[dict[str, Any]] = [{"step": 0, "validation_loss": 1.0}, *({"seconds": s} for s in passed)]
    assert update_seconds(stages, metrics) == seconds
    assert update_seconds(stages[:1], metrics) is None
