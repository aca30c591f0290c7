from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.openai_endpoint import Endpoint, Reply, serving
from tests.unit.eval.judged_run import JudgedRun, answer_in, better, fair, scored, worth
from tests.unit.eval.test_report import METRICS, Page, write
from tunebook_eval.report import summary
from tunebook_spec.evaluation import Gate


def milder(body: dict[str, Any]) -> Reply:
    """One point milder than people, and two for one answer in five."""
    value = worth(answer_in(body))
    return scored(min(10, value + 1 + (len(answer_in(body)) % 5 == 0)))


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with serving(Endpoint(fair)) as endpoint:
        yield endpoint


def page_of(run: JudgedRun, *gates: Gate) -> tuple[Page, str]:
    report = run.report()
    verdict = run.verdict(report, *gates)
    html = write(run.folder, (report, verdict), METRICS)
    return Page(html), summary(verdict, report)


def test_the_page_shows_criteria_and_how_the_judge_compares_with_people(
    tmp_path: Path, endpoint: Endpoint
) -> None:
    endpoint.reply = milder
    gate = Gate(metric="price.judge", at_least=0.5)
    page, told = page_of(JudgedRun(tmp_path, endpoint, metric={"criteria": {"worth": "High <b>."}}), gate)
    assert page.tags.count("svg") == 4, "gates, distribution, calibration, losses"
    for text in (
        "Judge: price.judge",
        "High <b>.",
        "Held against golden.jsonl",
        "golden answers, scored of all 36 of 36",
        "mean of judge minus people, in points of 10 1.",
        "Golden answers on which people and judge are furthest apart",
        "judge judge 84 0",
    ):
        assert text in page.words, text
    assert "advisory" not in page.words
    assert told.splitlines()[-2].startswith("pass ")


def test_the_page_shows_wins_ties_and_losses_and_that_they_are_advisory(
    tmp_path: Path, endpoint: Endpoint
) -> None:
    endpoint.reply = lambda body: better("first")
    gate = Gate(metric="price.pairwise", at_least=0.5)
    page, told = page_of(JudgedRun(tmp_path, endpoint, metric={"kind": "pairwise"}, num_items=40), gate)
    for text in (
        "Comparison: price.pairwise",
        "tuned against base",
        "win 0.000 0.000 to 0.088",  # Wilson, none of 40
        "tie 1.000 0.912 to 1.000",
        "wins, and half of the ties 0.500",
        "chooses what stands first, of the arms' answers 1.000",
        "price.pairwise is advisory: no gate passes or fails by it",
    ):
        assert text in page.words, text
    *_, gated, advisory, verdict = told.splitlines()
    assert gated.startswith("inconclusive  price.pairwise >= 0.5")
    assert gated.endswith("the metric is advisory")
    assert advisory.startswith(
        "advisory      price.pairwise: no gate passes or fails by it; the judge prefers"
    )
    assert verdict == "verdict: inconclusive (0 pass, 0 fail, 1 inconclusive)"
