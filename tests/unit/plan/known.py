"""Facts to advise by."""

from __future__ import annotations

from typing import Any

from tunebook_eval.evidence import QueryCost
from tunebook_plan.facts import Facts, Measured, RowFacts, Score, Way
from tunebook_spec import Spec

SPEC: dict[str, Any] = {
    "version": 1,
    "name": "notes",
    "base_model": {"kind": "builtin", "name": "smollm2-135m-instruct"},
    "data": {"sources": [{"kind": "file", "path": "notes.jsonl", "task": "note"}]},
    "method": {"kind": "lora"},
    "evaluation": {
        "sets": {"notes": {"task": "note", "metrics": ["exact_match"]}},
        "gates": [{"metric": "notes.exact_match", "gain_over": "best_baseline", "at_least": 0}],
    },
}
WAYS: dict[str, Way] = {
    "base": "prompting",
    "few_shot": "prompting",
    "retrieval": "retrieval",
    "tuned": "tuning",
}


def spec(metrics: list[Any] | None = None, **changed: Any) -> Spec:
    made = {**SPEC, **changed}
    if metrics is not None:
        sets = {"notes": {"task": "note", "metrics": ["exact_match", *metrics]}}
        made["evaluation"] = {**SPEC["evaluation"], "sets": sets}
    return Spec.model_validate(made)


def rows(train: int = 300, **changed: Any) -> RowFacts:
    known: dict[str, Any] = {
        "origin": "sources",
        "train": {"note": train},
        "test": 100,
        "rows_in": 1000,
        "flawed": 0,
        "looked_at": train,
        "answers": train,
        "question_chars": 1000.0,
        "shown_chars": 1010.0,
    }
    return RowFacts(**{**known, **changed})


def query(arm: str, tokens: float, seconds: float | None = 0.1) -> QueryCost:
    return QueryCost(
        set="notes",
        arm=arm,
        num_queries=100,
        prompt_tokens=tokens,
        cached_tokens=0,
        answer_tokens=5,
        num_timed=100,
        seconds=seconds,
    )


def measured(low: float | None = 0.1, lead_over: str = "few_shot", **changed: Any) -> Measured:
    means = {"base": 0.1, "few_shot": 0.5, "tuned": 0.7, "copy": 0.2, **changed.pop("means", {})}
    known: dict[str, Any] = {
        "run": "notes@1",
        "is_of_this_spec": True,
        "metric": "notes.exact_match",
        "scores": tuple(
            Score(arm=arm, way=WAYS.get(arm, "rule"), mean=mean, stderr=0.01) for arm, mean in means.items()
        ),
        "lead_over": lead_over,
        "lead": 0.2,
        "low": low,
        "high": None if low is None else 0.3,
        "queries": (query("base", 50), query("few_shot", 250, 0.15), query("tuned", 50)),
        "update_s": 200.0,
        "worse": (),
        "consistency": {},
    }
    return Measured(**{**known, **changed})


def facts(
    of: Spec | None = None,
    *,
    rows: RowFacts | None = None,
    measured: Measured | None = None,
    price_per_hour: float | None = None,
    **needs: Any,
) -> Facts:
    """Of a spec, or of the plain one with these needs."""
    return Facts(spec=of or spec(needs=needs), rows=rows, measured=measured, price_per_hour=price_per_hour)
