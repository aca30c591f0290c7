"""A judge behind a real endpoint, from its first question to the verdict: fair, biased, broken and killed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.openai_endpoint import Endpoint, Reply, serving
from tests.unit.eval.judged_run import (
    NUM_ITEMS,
    NUM_PROMPTS,
    JudgedRun,
    answer_in,
    better,
    evidence,
    fair,
    golden_rows,
    scored,
    shown,
    worth,
)
from tunebook_eval.evidence import Calibration, PairCalibration
from tunebook_inference.supporting import Budget
from tunebook_spec.errors import DataError, StageError
from tunebook_spec.evaluation import Gate

Judged = Callable[..., JudgedRun]
NUM_GOLDEN = 3 * NUM_PROMPTS
AT_LEAST = {"metric": "price.judge", "at_least": 0.7}
WINS = {"metric": "price.pairwise", "at_least": 0.6}


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with serving(Endpoint(fair)) as endpoint:
        yield endpoint


@pytest.fixture
def judged(tmp_path: Path, endpoint: Endpoint) -> Judged:
    def make(reply: Callable[[dict[str, Any]], Reply] = fair, **fields: Any) -> JudgedRun:
        endpoint.reply = reply
        return JudgedRun(tmp_path, endpoint, **fields)

    return make


def test_a_fair_judge_is_calibrated_and_its_metric_gates(judged: Judged, endpoint: Endpoint) -> None:
    run = judged()
    report = run.report()
    base, tuned = (next(s for s in report.of("price.judge") if s.arm == arm) for arm in ("base", "tuned"))
    assert set(base.scores.values()) == {0.4}
    assert set(tuned.scores.values()) == {0.8}
    found = evidence(report).calibration
    assert isinstance(found, Calibration)
    assert (found.num_scored, found.spearman, found.kendall, found.mean_absolute_error) == (36, 1, 1, 0)
    assert found.length_bias is None, "people's scores say all of the judge's"
    assert run.gate(report, **AT_LEAST).outcome == "pass"
    assert run.gate(report, metric="price.judge", at_least=0.95).outcome == "fail"
    assert run.verdict(report).advisory == {}
    asked = shown(endpoint.bodies[0])
    assert asked["instructions"] == "Be exact."
    assert [set(each) for each in asked["conversation"]] == [{"user", "assistant"}]
    assert "The answer has a high number." in endpoint.bodies[0]["messages"][0]["content"]
    assert (endpoint.num_calls, evidence(report).asked) == (2 * NUM_ITEMS + NUM_GOLDEN,) * 2


def test_without_a_golden_set_no_gate_passes_or_fails_by_it(judged: Judged) -> None:
    run = judged(golden=None)
    report = run.report()
    for at_least in (0.1, 0.95):
        result = run.gate(report, metric="price.judge", at_least=at_least)
        assert (result.outcome, result.value) == ("inconclusive", pytest.approx(0.8))
        assert result.note == "the metric is advisory"
    assert run.gate(report, metric="price.judge.unscored", at_most=0.2).outcome == "pass"
    line = run.verdict(report, Gate(**AT_LEAST)).lines[-2]
    assert line == (
        "advisory      price.judge: no gate passes or fails by it; the judge is not calibrated: the spec"
        " names no `golden` set"
    )


@pytest.mark.parametrize(
    ("bounds", "outcome", "reason"),
    [
        ({"min_spearman": 0.5, "max_length_bias": 0.5}, "pass", None),
        (
            {"min_spearman": 0.97, "max_length_bias": 0.5},
            "inconclusive",
            "rank correlation with people is 0.",
        ),
    ],
    ids=["mild", "strict"],
)
def test_the_bound_of_the_spec_decides(
    judged: Judged, bounds: dict[str, float], outcome: str, reason: str | None
) -> None:
    def noisy(body: dict[str, Any]) -> Reply:
        """Off by two, up or down, for every third answer."""
        value = worth(answer_in(body))
        off = (0, 2, -2)[len(body["messages"][1]["content"]) % 3]
        return scored(min(10, max(0, value + off)))

    run = judged(noisy, metric=bounds)
    report = run.report()
    found = evidence(report).calibration
    assert isinstance(found, Calibration)
    assert found.spearman is not None
    assert 0.5 < found.spearman < 0.97
    assert run.gate(report, metric="price.judge", at_least=0.3).outcome == outcome
    told = run.verdict(report).advisory.get("price.judge")
    assert (told is None) == (reason is None)
    assert reason is None or reason in str(told)


def test_a_judge_that_likes_length_is_found_out(judged: Judged) -> None:
    """People like longer answers too, so that the correlation with people alone would not show it."""
    golden = golden_rows()
    for number, row in enumerate(golden):
        row["answer"] = f"worth {row['score']}" + " indeed" * (2 * row["score"] + number % 5)

    def by_length(body: dict[str, Any]) -> Reply:
        return scored(min(10, len(answer_in(body)) // 17))

    run = judged(by_length, golden=golden)
    report = run.report()
    found = evidence(report).calibration
    assert isinstance(found, Calibration)
    assert found.spearman_low is not None
    assert found.spearman_low > 0.5
    assert found.length_bias is not None
    assert found.length_bias > 0.5
    assert run.gate(report, metric="price.judge", at_least=0.01).outcome == "inconclusive"
    assert "the judge likes longer answers" in run.verdict(report).advisory["price.judge"]


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        (Reply("I'd say 8/10!"), "not the JSON asked for"),
        (Reply('{"reason": "Good.", "score": 11}'), "not the JSON asked for"),
        (Reply('{"reason": "Good.", "score": 8.5}'), "not the JSON asked for"),
        (Reply(refusal="I cannot judge that."), "no answer"),
        (Reply(seconds=2.0), "no answer"),
        (Reply("Bad request", status=400), "no answer"),
    ],
    ids=["prose", "eleven", "a half", "refusal", "timeout", "bad request"],
)
def test_what_cannot_be_read_is_unscored_and_never_wrong(
    judged: Judged, reply: Reply, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunebook_inference.endpoint.MAX_ATTEMPTS", 2)

    def some(body: dict[str, Any]) -> Reply:
        asked = shown(body)["conversation"][-1]["user"]
        return reply if asked in ("What is 3 worth?", "What is 7 worth?") else fair(body)

    run = judged(some, golden=None, settings={"timeout_s": 1.0, "concurrency": 4})
    report = run.report()
    for scores in report.of("price.judge"):
        assert scores.num_unscored == 2
        assert set(scores.scores) == {f"{n:03}" for n in range(NUM_ITEMS)} - {"003", "007"}
        assert set(scores.scores.values()) == ({0.8} if scores.arm == "tuned" else {0.4})
    assert evidence(report).faults == {fault: 4}
    assert "price.judge: 2 answers could not be scored" in report.warnings


def test_a_judge_that_cannot_be_read_at_all_decides_nothing(judged: Judged) -> None:
    run = judged(lambda body: Reply("I'd say 8/10!"))
    report = run.report()
    result = run.gate(report, **AT_LEAST)
    assert (result.outcome, result.value) == ("inconclusive", None)
    assert "price.judge: nothing could be scored" in report.warnings
    assert "the judge could score 0 golden answers" in run.verdict(report).advisory["price.judge"]


def test_a_judge_that_always_says_the_same_is_told(judged: Judged) -> None:
    run = judged(lambda body: scored(7))
    report = run.report()
    told = "the judge gives every golden answer the same score"
    assert run.verdict(report).advisory == {"price.judge": told}


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"prompt": "p", "answer": "a", "score": 5}] * 30, "every answer has score 5, so no judge can be"),
        ([{"prompt": "p", "answer": "a", "score": 11}], r"golden.jsonl:1: score: Input should be less than"),
        ([{"prompt": "p", "answer": "a"}], r"golden.jsonl:1: score: Field required; write lines such as"),
        ([], "has no line; write lines such as"),
    ],
    ids=["constant", "eleven", "no score", "empty"],
)
def test_a_golden_set_that_calibrates_nothing_is_refused(
    judged: Judged, endpoint: Endpoint, rows: list[dict[str, Any]], told: str
) -> None:
    with pytest.raises(DataError, match=told):
        judged(golden=rows).judge()
    assert endpoint.num_calls == 0


def test_few_golden_rows_calibrate_nothing(judged: Judged) -> None:
    run = judged(golden=golden_rows()[:19])
    told = run.verdict(run.report()).advisory["price.judge"]
    assert told == "the judge could score 19 golden answers, and 20 are the least"


def test_criteria_are_asked_and_told_apart(judged: Judged) -> None:
    def by_criterion(body: dict[str, Any]) -> Reply:
        return scored(10 if "kind" in body["messages"][0]["content"] else worth(answer_in(body)))

    criteria = {"worth": "It has a high number.", "tone": "It is kind."}
    report = judged(by_criterion, golden=None, metric={"criteria": criteria}).report()
    means = {(each.metric, each.arm): each.overall.mean for each in report.scores if each.overall is not None}
    assert means["judge", "tuned"] == pytest.approx(0.9)
    assert means["judge.worth", "tuned"] == pytest.approx(0.8)
    assert means["judge.tone", "base"] == pytest.approx(1.0)


def test_repeats_are_averaged_and_how_far_they_differ_is_told(judged: Judged, endpoint: Endpoint) -> None:
    """Of three answers to one question one cannot be read."""
    seen: dict[str, int] = {}

    def wavering(body: dict[str, Any]) -> Reply:
        if len(body["messages"]) > 2:
            return Reply("Well...")
        with endpoint.lock:
            number = seen[answer_in(body)] = seen.get(answer_in(body), -1) + 1
        value = worth(answer_in(body))
        return (scored(min(10, value + 1)), scored(value - 1 if value else 0), Reply("Well..."))[number]

    rows = [row for row in golden_rows() if 0 < row["score"] < 10]
    for number, row in enumerate(rows):
        row["answer"] += f" {number}"
    texts = lambda arm, n: f"worth {8 if arm == 'tuned' else 4} of {n} by {arm}"  # noqa: E731
    metric = {"repeats": 3, "temperature": 0.7}
    report = judged(wavering, golden=rows, metric=metric, texts=texts).report()
    found = evidence(report)
    assert {value for each in report.of("price.judge") for value in each.scores.values()} == {0.4, 0.8}
    assert found.repeat_sd == pytest.approx(2**0.5)
    assert found.unscored == 2 * NUM_ITEMS + len(rows)
    assert {body["temperature"] for body in endpoint.bodies} == {0.7}


def test_a_comparison_is_won_tied_or_lost_in_both_orders(judged: Judged, endpoint: Endpoint) -> None:
    """Tuned wins 20 of 40, loses 8, ties 8 by worth, and 4 answers are the same."""
    tuned = [8] * 20 + [2] * 8 + [4] * 12

    def texts(arm: str, number: int) -> str:
        same = number >= 36
        return f"worth {tuned[number] if arm == 'tuned' else 4}{'' if same else f' says {arm}'}"

    run = judged(metric={"kind": "pairwise"}, texts=texts, num_items=40)
    report = run.report()
    parts = {each.metric: each for each in report.scores if each.metric.startswith("pairwise")}
    assert {name: each.arm for name, each in parts.items()} == dict.fromkeys(parts, "tuned")
    means = {name: each.overall.mean for name, each in parts.items() if each.overall}
    assert means == {"pairwise": 0.65, "pairwise.win": 0.5, "pairwise.tie": 0.3, "pairwise.loss": 0.2}
    win = parts["pairwise.win"].overall
    assert win is not None
    assert win.ci95 == pytest.approx((0.3520, 0.6480), abs=1e-4)  # Wilson, 20 of 40
    found = evidence(report)
    assert (found.orders_disagree, found.first_chosen and found.first_chosen.mean) == (0, 0.5)
    assert isinstance(found.calibration, PairCalibration)
    assert (found.calibration.agreement, found.calibration.ties) == (1, 0)
    assert run.gate(report, metric="price.pairwise", at_least=0.5).outcome == "pass"
    assert run.gate(report, metric="price.pairwise.loss", at_most=0.35).outcome == "pass"
    assert found.asked == 2 * 36 + 2 * found.calibration.num_pairs == endpoint.num_calls
    assert report.changes == ()


def test_a_judge_that_prefers_what_stands_first_is_found_out(judged: Judged) -> None:
    run = judged(lambda body: better("first"), metric={"kind": "pairwise"})
    report = run.report()
    (score,) = (each for each in report.of("price.pairwise"))
    assert set(score.scores.values()) == {0.5}, "orders that disagree are ties"
    found = evidence(report)
    assert (found.orders_disagree, found.first_chosen and found.first_chosen.mean) == (1, 1)
    assert isinstance(found.calibration, PairCalibration)
    assert found.calibration.agreement == 0.5
    assert found.calibration.first_chosen is not None
    assert found.calibration.first_chosen.mean == 1
    assert "prefers what people prefer in 0.50" in run.verdict(report).advisory["price.pairwise"]
    assert any("chooses what stands first in 100% of its answers" in each for each in report.warnings)
    assert run.gate(report, **WINS).outcome == "inconclusive"


def test_a_judge_that_prefers_what_is_longer_agrees_with_people_by_chance(judged: Judged) -> None:
    def longer(body: dict[str, Any]) -> Reply:
        first, second = (len(shown(body)[f"{place} answer"]) for place in ("first", "second"))
        return better("first" if first > second else "second" if second > first else "neither")

    run = judged(longer, metric={"kind": "pairwise"})
    report = run.report()
    found = evidence(report).calibration
    assert isinstance(found, PairCalibration)
    assert found.longer_preferred == 1
    assert found.longer_better is not None
    assert 0.3 < found.longer_better < 0.7
    assert "min_agreement is 0.6" in run.verdict(report).advisory["price.pairwise"]


def test_a_judge_that_prefers_what_is_longer_is_found_out_where_people_mostly_do_too(
    judged: Judged,
) -> None:
    """The agreement alone would not show it: three times in four people prefer the longer."""
    golden = []
    for number in range(40):
        good, bad = ("It is long and good.", "Bad.") if number % 4 else ("Good.", "It is long and bad.")
        prompt = f"What is {number} worth?"
        golden += [
            {"prompt": prompt, "answer": text, "score": score} for text, score in ((good, 9), (bad, 2))
        ]

    def longer(body: dict[str, Any]) -> Reply:
        first, second = (len(shown(body)[f"{place} answer"]) for place in ("first", "second"))
        return better("first" if first > second else "second" if second > first else "neither")

    run = judged(longer, golden=golden, metric={"kind": "pairwise", "min_agreement": 0.55})
    report = run.report()
    found = evidence(report).calibration
    assert isinstance(found, PairCalibration)
    assert (found.agreement, found.shorter_agreed and found.shorter_agreed.mean) == (0.75, 0)
    told = "the judge likes longer answers: where people prefer the shorter of two, it agrees in 0.00 of 10"
    assert told in run.verdict(report).advisory["price.pairwise"]


def test_one_order_that_cannot_be_read_leaves_the_comparison_unscored(judged: Judged) -> None:
    def half(body: dict[str, Any]) -> Reply:
        seen = shown(body)
        is_third = seen["conversation"][-1]["user"] == "What is 3 worth?"
        return Reply("Both.") if is_third and worth(seen["first answer"]) == 8 else fair(body)

    report = judged(half, golden=None, metric={"kind": "pairwise"}).report()
    (score,) = report.of("price.pairwise")
    assert (score.num_unscored, "003" in score.scores) == (1, False)
    assert set(score.scores.values()) == {1.0}


def test_a_stopped_judge_is_asked_nothing_twice(judged: Judged, endpoint: Endpoint) -> None:
    run = judged(budget=Budget(tokens=6000))
    with pytest.raises(StageError, match=r"the budget of judge \(judge-x at .*\) is spent"):
        run.judge()
    before = endpoint.num_calls
    assert 0 < before < 2 * NUM_ITEMS
    run.budget = Budget()
    done, out = run.judge()
    assert endpoint.num_calls == 2 * NUM_ITEMS + NUM_GOLDEN
    assert set(endpoint.answered.values()) == {1}
    assert done.resumed == before
    again, other = run.judge()
    assert (again.resumed, endpoint.num_calls) == (again.answers, 2 * NUM_ITEMS + NUM_GOLDEN)
    assert (out / "judgements.jsonl").read_bytes() == (other / "judgements.jsonl").read_bytes()


def test_another_criterion_is_another_question(judged: Judged, endpoint: Endpoint) -> None:
    run = judged()
    run.judge()
    before = endpoint.num_calls
    run.metric = {"criteria": {"worth": "The number is high."}}
    run.judge()
    assert endpoint.num_calls == 2 * before


def test_an_endpoint_is_not_shown_personal_data(judged: Judged, endpoint: Endpoint) -> None:
    def texts(arm: str, number: int) -> str:
        more = " write to jane.doe@mail-host.org" if number == 3 and arm == "tuned" else ""
        return f"worth {8 if arm == 'tuned' else 4}{more}"

    run = judged(texts=texts, golden=None)
    report = run.report()
    assert "mail-host" not in json.dumps(endpoint.bodies)
    (tuned,) = (each for each in report.of("price.judge") if each.arm == "tuned")
    assert (tuned.num_unscored, "003" in tuned.scores) == (1, False)
    assert evidence(report).unseen == 1
    allowed = judged(texts=texts, golden=None, facts={"personal_data": "allow"}, num=9)
    assert evidence(allowed.report()).unseen == 0
    assert "mail-host" in json.dumps(endpoint.bodies)


def test_a_judge_of_itself_is_refused_or_told(judged: Judged, endpoint: Endpoint) -> None:
    with pytest.raises(StageError, match="has the weights that it would judge"):
        judged(facts={"is_tuned_or_base": True}).judge()
    assert endpoint.num_calls == 0
    run = judged(
        golden=None,
        facts={"is_tuned_or_base": True, "is_teacher": True},
        metric={"may_judge_itself": True},
        num=5,
    )
    told = " ".join(run.report().warnings)
    assert "judges itself" in told
    assert "wrote rows that the tuned model has learnt" in told
