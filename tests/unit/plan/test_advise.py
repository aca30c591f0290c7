from __future__ import annotations

from typing import Any

import pytest

from tests.unit.plan.known import facts, measured, query, rows, spec
from tunebook_plan.advise import advise
from tunebook_plan.costs import BreakEven, break_even, way_costs
from tunebook_plan.facts import Facts, Measured


@pytest.mark.parametrize(
    ("known", "way", "reason"),
    [
        (facts(rows=rows(80)), "prompting", "under 100 examples teach little"),
        (facts(rows=rows(2000, answers=3)), "prompting", "a simple task does not repay training"),
        (facts(spec(["json_valid"]), rows=rows(2000)), "tuning", "keeps to one's format"),
        (facts(rows=rows(2000), teach=["terms"]), "tuning", "domain and its terms"),
        (facts(rows=rows(2000), private_data=True), "retrieval", "weights tell everyone"),
        (facts(rows=rows(5000), facts_change="monthly"), "retrieval", "the day they were trained"),
        (facts(rows=rows(5000), tight_budget=True), "prompting", "cost before the first answer"),
    ],
    ids=["few", "simple", "format", "terms", "private", "current", "budget"],
)
def test_without_a_report_rules_of_thumb_decide(known: Facts, way: str, reason: str) -> None:
    advice = advise(known)
    assert advice.way == way
    assert reason in advice.reason
    assert any("no run has measured" in told for told in advice.rests_on)


@pytest.mark.parametrize(
    ("report", "way", "reason"),
    [
        (measured(), "tuning", "+0.200, 95 % above 0.100"),
        (measured(-0.02), "prompting", "few_shot is as good as tuned within its interval"),
        (measured(-0.02, "copy"), "rule", "copy is as good as tuned"),
        (
            measured(None),
            "prompting",
            "few_shot may be as good as tuned, for all that so few groups can tell",
        ),
        (measured(-0.02, "retrieval", means={"retrieval": 0.6}), "retrieval", "retrieval is as good"),
    ],
    ids=["ahead", "few-shot", "rule", "thin", "retrieval"],
)
def test_a_report_beats_rules_of_thumb(report: Measured, way: str, reason: str) -> None:
    for known in (rows(60), rows(20_000, answers=3)):
        advice = advise(facts(rows=known, measured=report))
        assert advice.way == way
        assert reason in advice.reason


def test_what_only_the_user_knows_goes_before_a_report_which_is_told_too() -> None:
    advice = advise(facts(rows=rows(2000), measured=measured(), update_within="hours"))
    assert advice.way == "prompting"
    assert "debugged at once" in advice.reason
    assert "though notes.exact_match 0.700 tuned" in advice.reason


def test_data_that_not_all_may_see_are_looked_up_however_good_the_tuned_model_is() -> None:
    advice = advise(facts(rows=rows(2000), measured=measured(), private_data=True))
    assert advice.way == "retrieval"
    assert "weights tell everyone (needs.private_data: true), though notes.exact_match 0.700" in advice.reason
    both = advise(facts(rows=rows(2000), measured=measured(), private_data=True, teach=["terms"]))
    assert both.way == "tuning", "the needs do not agree, so the report decides"


@pytest.mark.parametrize(
    ("known", "against"),
    [
        (facts(measured=measured(worse=("general.contains",))), "general.contains fell"),
        (facts(spec(["json_valid"]), rows=rows(80)), "keeps to one's format"),
        (facts(measured=measured()), "nothing that is known"),
    ],
    ids=["forgets", "prompted", "nothing"],
)
def test_two_lines_tell_the_way_and_what_speaks_against_it(known: Facts, against: str) -> None:
    advice = advise(known)
    assert advice.lines[0].startswith(f"{advice.way}: ")
    assert advice.lines[1].startswith("against it: ")
    assert against in advice.lines[1]


def test_costs_are_what_was_measured_and_money_where_its_price_is_known() -> None:
    costs = {each.way: each for each in way_costs(facts(measured=measured(), price_per_hour=7.2))}
    assert list(costs) == ["prompting", "retrieval", "rule", "tuning"]
    prompting, tuning = costs["prompting"], costs["tuning"]
    assert (prompting.arm, prompting.prompt_tokens, prompting.seconds) == ("few_shot", 250, 0.15)
    assert prompting.cost_of_1000 == pytest.approx(0.3)
    assert (prompting.update_s, prompting.update_cost) == (0, 0)
    assert (tuning.cost_of_1000, tuning.update_cost) == (pytest.approx(0.2), pytest.approx(0.4))
    assert (costs["retrieval"].seconds, costs["retrieval"].update_s) == (None, None)
    unpriced = {each.way: each for each in way_costs(facts(measured=measured()))}
    assert (unpriced["tuning"].cost_of_1000, unpriced["tuning"].update_cost) == (None, None)


def test_a_machine_that_costs_nothing_answers_for_nothing() -> None:
    costs = {each.way: each for each in way_costs(facts(measured=measured(), price_per_hour=0))}
    assert (costs["tuning"].cost_of_1000, costs["tuning"].update_cost) == (0, 0)
    assert costs["retrieval"].cost_of_1000 is None


def test_nothing_is_made_up_where_no_run_has_measured() -> None:
    for each in way_costs(facts(rows=rows(), price_per_hour=7.2)):
        told = (each.arm, each.quality, each.prompt_tokens, each.seconds, each.cost_of_1000)
        assert told == (None,) * 5
    assert break_even(facts(rows=rows())) == ()


def test_an_update_is_repaid_by_the_seconds_that_shorter_prompts_save() -> None:
    (found,) = break_even(facts(measured=measured(), queries_per_month=2000))
    assert (found.against, found.queries, found.months) == ("few_shot", pytest.approx(4000), pytest.approx(2))
    assert break_even(facts(measured=measured()))[0].months is None


@pytest.mark.parametrize(
    ("queries", "expected"),
    [
        (
            (query("few_shot", 250, 0.1), query("tuned", 50, 0.1)),
            (BreakEven(against="few_shot", queries=None, months=None),),
        ),
        ((query("few_shot", 250, None), query("tuned", 50)), ()),
        ((query("tuned", 50),), ()),
    ],
    ids=["no faster", "not timed", "no arm"],
)
def test_an_update_may_never_be_repaid_or_nobody_knows(queries: tuple[Any, ...], expected: Any) -> None:
    assert break_even(facts(measured=measured(queries=queries))) == expected
