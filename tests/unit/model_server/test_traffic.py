from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from model_server.traffic import Draws, Traffic, load_traffic
from tunebook_spec.errors import SpecError

SERVED = ("medical@2", "medical@3")
TRAFFIC = """\
split:
  medical: {medical@2: 1, medical@3: 3}
shadow:
  - {of: medical, to: medical@3, share: 0.5}
log: {path: traffic.jsonl}
"""


@pytest.fixture
def traffic(tmp_path: Path) -> Traffic:
    (tmp_path / "traffic.yaml").write_text(TRAFFIC)
    return load_traffic(tmp_path / "traffic.yaml", SERVED)


def test_requests_are_split_by_weight(traffic: Traffic) -> None:
    draws = Draws(traffic)
    of_nobody = Counter(draws.model("medical", None) for _ in range(4000))
    of_users = Counter(draws.model("medical", f"user {number}") for number in range(4000))
    for counts in (of_nobody, of_users):
        assert set(counts) == set(SERVED)
        assert counts["medical@3"] / 4000 == pytest.approx(0.75, abs=0.03)


def test_a_split_may_have_many_models() -> None:
    traffic = Traffic(split={"medical": {"a": 1, "b": 2, "c": 5}})
    draws = Draws(traffic)
    counts = Counter(draws.model("medical", None) for _ in range(8000))
    assert [counts[model] / 1000 for model in "abc"] == pytest.approx([1, 2, 5], abs=0.2)


def test_a_user_is_always_answered_by_the_same_model(traffic: Traffic) -> None:
    draws = Draws(traffic)
    for number in range(50):
        assert len({draws.model("medical", f"user {number}") for _ in range(20)}) == 1


def test_a_model_that_is_named_answers_itself(traffic: Traffic) -> None:
    assert {Draws(traffic).model("medical@2", None) for _ in range(100)} == {"medical@2"}


def test_a_shadow_is_asked_as_often_as_it_is_told_and_never_what_it_answers_itself(traffic: Traffic) -> None:
    draws = Draws(traffic)
    asked = sum(draws.shadows("medical", "medical@2") == ["medical@3"] for _ in range(2000))
    assert asked / 2000 == pytest.approx(0.5, abs=0.04)
    assert not any(draws.shadows("medical", "medical@3") for _ in range(100))
    assert not any(draws.shadows("medical@2", "medical@2") for _ in range(100))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("medical@2: 1", "medical@9: 1"), "line 2, split.medical.medical@9: 'medical@9' is not served"),
        (("medical@2: 1", "medical@2: 0"), "line 2, split.medical.medical@2: Input should be greater than 0"),
        (("  medical:", "  medical@2:"), "line 2, split.medical@2: is the name of a served model"),
        (("of: medical,", "of: other,"), "line 4, shadow.0.of: 'other' is neither served nor split"),
        (("to: medical@3", "to: medical"), "line 4, shadow.0.to: 'medical' is not served"),
        (("share: 0.5", "share: 2"), "line 4, shadow.0.share: Input should be less than or equal to 1"),
        (("log: {path: traffic.jsonl}", ""), "shadow: its answers go to the log alone, and there is none"),
        (("path:", "paht:"), "line 5, log.paht: unknown key; did you mean 'path'?"),
        (("{medical@2: 1, medical@3: 3}", "{}"), "line 2, split.medical: names no model"),
    ],
)
def test_what_cannot_be_is_refused_with_its_line(
    tmp_path: Path, change: tuple[str, str], problem: str
) -> None:
    (tmp_path / "traffic.yaml").write_text(TRAFFIC.replace(*change))
    with pytest.raises(SpecError) as refused:
        load_traffic(tmp_path / "traffic.yaml", SERVED)
    assert problem in str(refused.value)
