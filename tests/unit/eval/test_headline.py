from __future__ import annotations

import pytest

from tests.unit.plan.known import SPEC
from tunebook_eval.headline import headline
from tunebook_spec import Spec

GAIN = {"metric": "notes.exact_match", "gain_over": "best_baseline", "at_least": 0}
FLOOR = {"metric": "notes.token_f1", "at_least": 0.5}
LIMIT = {"metric": "notes.answer_tokens", "at_most": 50}
SHORTER = {"metric": "notes.answer_tokens", "gain_over": "base", "at_most": 0}


@pytest.mark.parametrize(
    ("gates", "metric"),
    [
        ([FLOOR, GAIN], "notes.exact_match"),
        ([FLOOR], "notes.token_f1"),
        ([LIMIT, FLOOR], "notes.token_f1"),
        ([SHORTER, FLOOR], "notes.token_f1"),
        ([LIMIT], "notes.exact_match"),
    ],
    ids=["gain", "floor", "after a limit", "after less of something", "only a limit"],
)
def test_a_scenario_is_about_what_should_be_high(gates: list[dict[str, object]], metric: str) -> None:
    sets = {"notes": {"task": "note", "metrics": ["exact_match", "token_f1"]}}
    spec = Spec.model_validate({**SPEC, "evaluation": {"sets": sets, "gates": gates}})
    assert headline(spec) == metric
