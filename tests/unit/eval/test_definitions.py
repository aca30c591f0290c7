from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.unit.eval.answers_on_disk import asked
from tunebook_eval.answers import Answer
from tunebook_eval.definitions import Definition, definitions
from tunebook_eval.evidence import EvalReport, JudgeEvidence
from tunebook_run.stages import Artifact
from tunebook_spec.errors import StageError

RULE = {"name": "short", "max_words": 20}
RULES = {"kind": "rules", "rules": [RULE]}
JUDGE = {"kind": "judge", "judge": "judge", "criteria": {"tone": "It is warm."}}
PAIRWISE = {**JUDGE, "kind": "pairwise", "against": "base"}


def left(stage: str, **inputs: Any) -> Artifact:
    inputs = {"format": 5, "libraries": {"ruff": "0.13.0", "scipy": "1.16"}, **inputs}
    return Artifact(
        stage=stage,
        digest="0123456789abcdef",
        inputs=inputs,
        files={},
        result={},
        seconds=1,
        finished_at=datetime.now(UTC),
    )


def judged(metric: dict[str, Any], who: str, reported: str) -> JudgeEvidence:
    return JudgeEvidence.model_validate(
        {
            "set": "glossary",
            "metric": metric["kind"],
            "kind": metric["kind"],
            "role": metric["judge"],
            "who": who,
            "reported_models": (reported,),
            "calibration": None,
            "criteria": {},
            "faults": {},
            **dict.fromkeys(("by_probability", "is_tuned_or_base", "is_teacher"), False),
            **dict.fromkeys(("repeats", "asked", "unscored", "unseen"), 0),
        }
    )


def define(
    metric: dict[str, Any],
    answers: dict[str, list[Answer]] | None = None,
    *,
    who: str = "gpt-4.1 at api",
    reported: str = "gpt-4.1-2025",
    asks: dict[str, Any] | None = None,
    temperature: float = 0,
    **evaluated: Any,
) -> Definition:
    judges = (judged(metric, who, reported),) if "judge" in metric else ()
    found = definitions(
        left("evaluate", fields={"metrics": {"glossary": [metric]}}, **evaluated),
        left(
            "answer-tuned",
            fields={"sets": {"glossary": {"max_tokens": 64} | (asks or {})}, "temperature": temperature},
        ),
        EvalReport(scores=(), groups={}, costs=(), flips=(), examples=(), judges=judges, warnings=()),
        answers or {"tuned": [], "base": []},
    )
    return next(iter(found.values()))


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        ({"kind": "exact_match", "normalise": False}, {"kind": "exact_match"}, "normalise (false, true)"),
        (
            {"kind": "json_schema", "answer_schema": {"required": ["a"]}},
            {"kind": "json_schema", "answer_schema": {"required": ["a", "b"]}},
            "answer_schema.required.1 (-, b)",
        ),
        (RULES, {**RULES, "rules": [{**RULE, "max_words": 9}]}, "rules.0.max_words (20, 9)"),
        (
            {"kind": "regex", "pattern": "a"},
            {"kind": "contains", "name": "regex"},
            "kind (regex, contains), pattern (a, -)",
        ),
        (JUDGE, {**JUDGE, "criteria": {"tone": "It is kind."}}, "criteria.tone (It is warm., It is kind.)"),
    ],
    ids=["option", "schema", "rules", "kind", "criteria"],
)
def test_other_arguments_are_another_definition(
    one: dict[str, Any], other: dict[str, Any], told: str
) -> None:
    assert define(one).unlike(define(other)) == told
    assert define(one).unlike(define(one)) == ""


@pytest.mark.parametrize(
    ("metric", "more", "told"),
    [
        ({"kind": "contains"}, {"asks": {"max_tokens": 128}}, "max_tokens (64, 128)"),
        (
            {"kind": "contains"},
            {"asks": {"json_schema": {"type": "object"}}},
            'json_schema (null, {"type": "object"})',
        ),
        ({"kind": "contains"}, {"temperature": 0.7}, "temperature (0, 0.7)"),
        ({"kind": "contains"}, {"format": 6}, "format of evaluate (5, 6)"),
        (
            {"kind": "code_ruff", "config": ""},
            {"libraries": {"ruff": "0.14.0"}},
            "ruff (0.13.0, 0.14.0)",
        ),
        (JUDGE, {"who": "b"}, "judge (gpt-4.1 at api, gpt-4.1-2025, b, gpt-4.1-2025)"),
        (JUDGE, {"reported": "b"}, "judge (gpt-4.1 at api, gpt-4.1-2025, gpt-4.1 at api, b)"),
    ],
    ids=["length", "held to a schema", "temperature", "scorers", "ruff", "judge", "judge's snapshot"],
)
def test_other_decoding_and_another_scorer_are_another_definition(
    metric: dict[str, Any], more: dict[str, Any], told: str
) -> None:
    assert define(metric).unlike(define(metric, **more)) == told


@pytest.mark.parametrize(
    ("metric", "more"),
    [
        (JUDGE, {"min_spearman": 0.1, "golden": "data/a.jsonl", "may_judge_itself": True, "judge": "other"}),
        ({"kind": "contains"}, {"name": "contains"}),
        ({"kind": "contains"}, {}),
    ],
    ids=["what a judge's word is worth", "its own name", "ruff's version"],
)
def test_what_does_not_change_the_number_is_the_same_definition(
    metric: dict[str, Any], more: dict[str, Any]
) -> None:
    one, other = define(metric), define({**metric, **more}, libraries={"ruff": "0.14.0"})
    assert one.unlike(other) == ""


def test_fixed_texts_are_read_and_not_decoded() -> None:
    one, other = (
        define({"kind": "log_likelihood"}, asks={"texts": "fixed_texts", "max_tokens": num}) for num in (1, 2)
    )
    assert one.unlike(other) == ""


@pytest.mark.parametrize(
    ("metric", "field"),
    [
        ({"kind": "choice_accuracy"}, "choices"),
        ({"kind": "rules", "rules": [{"name": "facts", "holds": "facts"}]}, "facts"),
        ({"kind": "code_doctests", "examples": "examples"}, "examples"),
        ({"kind": "code_ruff", "config": "", "defines": "signature"}, "signature"),
    ],
    ids=["choices", "holds", "examples", "defines"],
)
def test_what_rows_are_held_to_is_part_of_the_definition(metric: dict[str, Any], field: str) -> None:
    one, other = (
        {"tuned": [asked(n, "a", meta={field: value if n else "same"}) for n in range(3)]}
        for value in ("a", "b")
    )
    told = f"the rows' field {field!r} (2 of 3 rows differ)"
    assert define(metric, one).unlike(define(metric, other)) == told
    assert define({"kind": "contains"}, one).unlike(define({"kind": "contains"}, other)) == ""


def test_a_comparison_with_other_answers_is_another_definition() -> None:
    one, other = ({"tuned": [], "base": [asked(n, f"{n}{said}") for n in range(4)]} for said in "ab")
    assert define(PAIRWISE, one).unlike(define(PAIRWISE, other)) == "the answers of base (4 of 4 rows differ)"
    assert define(JUDGE, one).unlike(define(JUDGE, other)) == ""


def test_many_differences_are_counted_beyond_the_first() -> None:
    one, other = ({**RULES, "rules": [{"name": f"{c}{n}", "max_words": 5} for n in range(5)]} for c in "ab")
    assert define(one).unlike(define(other)) == (
        "rules.0.name (a0, b0), rules.1.name (a1, b1), rules.2.name (a2, b2), 2 more"
    )


def test_metrics_of_another_version_are_told() -> None:
    told = "evaluate-0123456789ab: its metrics are of another version of Tunebook .*; run its spec again"
    with pytest.raises(StageError, match=told):
        define({"kind": "contains", "gone": 1})
