"""One line of the field's rules, one test: what it sees when it speaks, and that it is silent else."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.plan.known import facts, measured, query, rows, spec
from tunebook_plan import measured_rules, rules
from tunebook_plan.facts import Facts
from tunebook_plan.rules import THUMB, Finding
from tunebook_spec.needs import Needs

RULES: dict[str, Any] = {"kind": "rules", "rules": [{"name": "short", "max_words": 9}]}
DPO = spec(
    method={"kind": "lora", "objective": {"kind": "dpo"}},
    data={"sources": [{"kind": "file", "path": "a.jsonl", "task": "note", "format": "preference"}]},
)
PLAIN = facts(rows=rows())


def speaks(found: Finding | None, way: str, side: str, saw: str) -> None:
    assert found is not None
    assert (found.way, found.speaks, found.saw) == (way, side, saw)


def test_a_prompt_costs_nothing_to_update() -> None:
    speaks(rules.prompting_costs_no_update(PLAIN), "prompting", "for", "always so")


@pytest.mark.parametrize(
    ("metric", "saw"),
    [("json_valid", "notes is scored by json_valid"), (RULES, "notes is scored by rules")],
    ids=["format", "style"],
)
def test_prompting_for_style_and_format(metric: Any, saw: str) -> None:
    speaks(rules.prompting_asks_for_style_and_format(facts(spec([metric]))), "prompting", "for", saw)
    assert rules.prompting_asks_for_style_and_format(PLAIN) is None


@pytest.mark.parametrize(
    ("rule", "way", "side"),
    [
        (rules.prompting_does_simple_tasks, "prompting", "for"),
        (rules.no_tuning_for_simple_tasks, "tuning", "against"),
    ],
    ids=["prompting", "tuning"],
)
def test_a_simple_task_is_prompted_and_not_tuned(rule: rules.Rule, way: str, side: str) -> None:
    speaks(rule(facts(rows=rows(answers=10))), way, side, "10 different answers in 300 rows")
    assert rule(facts(rows=rows(answers=11))) is None
    assert rule(facts(rows=rows(29, answers=2))) is None, "too few rows to tell"


def test_retrieval_for_facts() -> None:
    speaks(rules.retrieval_brings_facts(facts(teach=["facts"])), "retrieval", "for", "needs.teach")
    assert rules.retrieval_brings_facts(PLAIN) is None


def test_retrieval_for_live_data() -> None:
    saw = "needs.facts_change: daily"
    speaks(rules.retrieval_reads_live_data(facts(facts_change="daily")), "retrieval", "for", saw)
    assert rules.retrieval_reads_live_data(facts(facts_change="monthly")) is None


def test_retrieval_for_private_data() -> None:
    found = rules.retrieval_keeps_private_data_apart(facts(private_data=True))
    speaks(found, "retrieval", "for", "needs.private_data: true")
    assert rules.retrieval_keeps_private_data_apart(PLAIN) is None


def test_tuning_for_behaviour() -> None:
    speaks(rules.tuning_changes_behaviour(facts(teach=["behaviour"])), "tuning", "for", "needs.teach")
    assert rules.tuning_changes_behaviour(PLAIN) is None


def test_tuning_for_a_consistent_style() -> None:
    speaks(rules.tuning_holds_a_style(facts(spec([RULES]))), "tuning", "for", "notes is scored by rules")
    assert rules.tuning_holds_a_style(PLAIN) is None


def test_tuning_for_a_domain_and_its_terms() -> None:
    speaks(rules.tuning_teaches_terms(facts(teach=["terms"])), "tuning", "for", "needs.teach")
    assert rules.tuning_teaches_terms(PLAIN) is None


def test_tuning_for_a_consistent_format() -> None:
    found = rules.tuning_holds_a_format(facts(spec(["json_fields"])))
    speaks(found, "tuning", "for", "notes is scored by json_fields")
    assert rules.tuning_holds_a_format(PLAIN) is None


def test_tuning_for_capabilities_to_remove() -> None:
    speaks(rules.tuning_removes_capabilities(facts(DPO)), "tuning", "for", "method.objective is dpo")
    assert rules.tuning_removes_capabilities(PLAIN) is None


def test_tuning_for_shorter_prompts_by_the_length_of_rows() -> None:
    found = rules.tuning_shortens_prompts(facts(rows=rows(question_chars=90.0, shown_chars=100.0)))
    speaks(found, "tuning", "for", "3 rows shown make a prompt 4.3 times as long")
    alone = spec(evaluation={**spec().evaluation.model_dump(mode="json"), "arms": ["base", "tuned"]})
    assert rules.tuning_shortens_prompts(facts(alone, rows=rows())) is None


def test_tuning_for_shorter_prompts_as_measured() -> None:
    found = rules.tuning_shortens_prompts(facts(rows=rows(), measured=measured()))
    speaks(found, "tuning", "for", "prompts of 250 tokens with few-shot, 50 tuned")
    short = measured(queries=(query("few_shot", 60), query("tuned", 50)))
    assert rules.tuning_shortens_prompts(facts(rows=rows(), measured=short)) is None


def test_tuning_for_latency() -> None:
    speaks(rules.tuning_answers_faster(facts(fast_answers=True)), "tuning", "for", "needs.fast_answers: true")
    saw = "0.100 s an answer tuned, 0.150 s with few-shot"
    speaks(rules.tuning_answers_faster(facts(fast_answers=True, measured=measured())), "tuning", "for", saw)
    slow = measured(queries=(query("few_shot", 60, 0.1), query("tuned", 50, 0.1)))
    assert rules.tuning_answers_faster(facts(fast_answers=True, measured=slow)) is None
    assert rules.tuning_answers_faster(PLAIN) is None


@pytest.mark.parametrize(
    ("num", "reason"),
    [(500, "enough examples"), (999, "enough"), (1000, "1,000 good examples"), (10_000, "capability whole")],
)
def test_tuning_on_a_thousand_good_examples_or_more(num: int, reason: str) -> None:
    found = rules.tuning_has_examples(facts(rows=rows(num)))
    assert found is not None
    assert reason in found.reason
    assert str(num) in found.saw
    assert rules.tuning_has_examples(facts(rows=rows(499))) is None


def test_no_tuning_for_facts_that_must_be_current() -> None:
    saw = "needs.facts_change: monthly"
    speaks(rules.no_tuning_for_current_facts(facts(facts_change="monthly")), "tuning", "against", saw)
    assert rules.no_tuning_for_current_facts(facts(facts_change="yearly")) is None


@pytest.mark.parametrize(("num", "how"), [(99, "work but weakly"), (49, "too few")])
def test_no_tuning_on_fewer_than_a_hundred_examples(num: int, how: str) -> None:
    found = rules.no_tuning_on_few_examples(facts(rows=rows(num)))
    assert found is not None
    assert (found.way, found.speaks) == ("tuning", "against")
    assert how in found.saw
    assert rules.no_tuning_on_few_examples(facts(rows=rows(100))) is None
    assert rules.no_tuning_on_few_examples(facts()) is None, "nobody counted them"


def test_quality_goes_before_quantity() -> None:
    saw = "51 of 1000 rows were rejected, repeated or flagged"
    speaks(rules.no_tuning_on_flawed_examples(facts(rows=rows(flawed=51))), "tuning", "against", saw)
    assert rules.no_tuning_on_flawed_examples(facts(rows=rows(flawed=50))) is None


@pytest.mark.parametrize("within", ["hours", "days"])
def test_no_tuning_where_it_must_be_debugged_or_updated_fast(within: str) -> None:
    saw = f"needs.update_within: {within}"
    speaks(rules.no_tuning_where_updates_are_urgent(facts(update_within=within)), "tuning", "against", saw)
    assert rules.no_tuning_where_updates_are_urgent(facts(update_within="weeks")) is None


def test_no_tuning_on_a_tight_budget() -> None:
    saw = "needs.tight_budget: true"
    speaks(rules.no_tuning_on_a_tight_budget(facts(tight_budget=True)), "tuning", "against", saw)
    assert rules.no_tuning_on_a_tight_budget(PLAIN) is None


def test_measured_that_tuning_is_ahead() -> None:
    found = measured_rules.tuning_is_ahead(facts(measured=measured()))
    saw = "notes.exact_match 0.700 tuned, 0.500 few_shot; +0.200, 95 % above 0.100 and below 0.300"
    speaks(found, "tuning", "for", saw)
    for low in (0.0, None):
        assert measured_rules.tuning_is_ahead(facts(measured=measured(low))) is None


@pytest.mark.parametrize("other", ["few_shot", "copy"])
def test_measured_that_something_else_is_as_good(other: str) -> None:
    found = measured_rules.something_else_is_as_good(facts(measured=measured(-0.05, other)))
    assert found is not None
    assert (found.way, found.speaks) == ("tuning", "against")
    assert found.reason == f"{other} is as good as tuned within its interval"
    behind = measured_rules.something_else_is_as_good(facts(measured=measured(-0.5, other, high=-0.1)))
    assert behind is not None
    assert behind.reason == f"{other} is better than tuned"
    assert measured_rules.something_else_is_as_good(facts(measured=measured())) is None


def test_measured_that_tuning_forgets() -> None:
    found = measured_rules.tuning_forgets(facts(measured=measured(worse=("general.contains",))))
    speaks(found, "tuning", "against", "general.contains fell beyond chance")
    assert measured_rules.tuning_forgets(facts(measured=measured())) is None


def test_measured_that_tuning_is_more_consistent() -> None:
    both = {"tuned": 0.9, "few_shot": 0.6}
    found = measured_rules.tuning_is_more_consistent(facts(measured=measured(consistency=both)))
    speaks(found, "tuning", "for", "consistency 0.900 tuned, 0.600 with few-shot")
    less = measured(consistency={"tuned": 0.5, "few_shot": 0.6})
    assert measured_rules.tuning_is_more_consistent(facts(measured=less)) is None


def test_measured_that_retrieval_beats_fixed_examples() -> None:
    found = measured_rules.retrieval_beats_fixed_examples(facts(measured=measured(means={"retrieval": 0.6})))
    speaks(found, "retrieval", "for", "notes.exact_match 0.600, with few_shot 0.500")
    less = measured(means={"retrieval": 0.4})
    assert measured_rules.retrieval_beats_fixed_examples(facts(measured=less)) is None


@pytest.mark.parametrize(
    ("need", "value"),
    [
        ("teach", ["terms"]),
        ("facts_change", "daily"),
        ("private_data", True),
        ("update_within", "days"),
        ("tight_budget", True),
        ("fast_answers", True),
    ],
)
def test_every_need_is_read_by_a_rule(need: str, value: Any) -> None:
    assert said(facts(**{need: value})) != said(facts())


def test_every_need_is_in_the_test_above_or_tells_the_volume() -> None:
    assert len(Needs.model_fields) == 7
    assert "queries_per_month" in Needs.model_fields


def said(known: Facts) -> list[Finding]:
    return [found for rule in THUMB if (found := rule(known))]
