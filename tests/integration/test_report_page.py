"""The report of a large evaluation, in a browser, on a desk and on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import CHROMIUM, Browser, browser
from tests.openai_endpoint import Endpoint, serving
from tests.unit.eval.answers_on_disk import asked, general, leave
from tests.unit.eval.judged_run import JudgedRun, fair
from tests.unit.eval.report_page import METRICS, write
from tunebook_eval.decide import decide
from tunebook_eval.evaluate import evaluate
from tunebook_eval.inputs import EvaluateInputs
from tunebook_spec.evaluation import Gate

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, of this machine's packages")

TASK, SUITE = 2000, 3000
"""Items, each answered by base and tuned: of a task, also by few_shot; of a suite, which a third flips."""
WIDTHS = (1280, 390)
ROWS = 50
"""In a page of answers."""
SHOWN = "document.getElementById('shown').textContent"
TABLE_ROWS = "document.querySelectorAll('#answers tbody tr')"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    said = "It is what the note says of it, more or less. " * 4

    def task(right: int) -> list[Any]:
        return [
            asked(n, f"AKI: {f'meaning {n}' if n < right else said}\nMRI: imaging", shots=(f"{n:016x}",))
            for n in range(TASK)
        ]

    def suite(wrong: int) -> list[Any]:
        return [general(n, said if n % 3 == wrong else f"yes, {said}") for n in range(SUITE)]

    arms = {
        "base": [*task(100), *suite(0)],
        "few_shot": task(600),
        "tuned": [*task(1800), *suite(1)],
        "baselines": [asked(n, "MRI: imaging", rule="majority") for n in range(TASK)],
    }
    inputs = EvaluateInputs.model_validate(
        {"metrics": {"glossary": ("line_match",), "general": ("contains",)}}
    )
    folders = {arm: leave(folder, arm, answers) for arm, answers in arms.items()}
    report = evaluate(inputs, arms=folders, judges={}, out=folder)
    assert len(report.flips) == 2 * SUITE / 3
    gates = (
        Gate(metric="glossary.line_match", gain_over="best_baseline", at_least=0.0),
        Gate(metric="general.contains", max_drop=0.05),
    )
    write(folder, (report, decide(report, gates, {})), METRICS, price_per_hour=1.0)
    return folder / "report.html"


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_the_window_and_the_console_stays_empty(opened: Browser, page: Path, width: int) -> None:
    opened.open(page, width=width)
    assert opened.value("document.documentElement.scrollWidth") <= width
    opened.value("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert opened.value("document.documentElement.scrollWidth") <= width
    assert opened.complaints == []


@pytest.fixture(scope="module")
def judged_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a judge that scores and one that compares, with what calibrates them."""
    folder = tmp_path_factory.mktemp("judged")
    with serving(Endpoint(fair)) as endpoint:
        metrics = [{}, {"kind": "pairwise"}]
        for name, metric in zip(("scores", "compares"), metrics, strict=True):
            (folder / name).mkdir()
            run = JudgedRun(folder / name, endpoint, metric=metric)
            report = run.report()
            write(folder / name, (report, run.verdict(report)), METRICS)
    return folder


@pytest.mark.parametrize("name", ["scores", "compares"])
@pytest.mark.parametrize("width", WIDTHS)
def test_what_a_judge_is_worth_fits_the_window(
    opened: Browser, judged_page: Path, width: int, name: str
) -> None:
    opened.open(judged_page / name / "report.html", width=width)
    opened.value("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert opened.value("document.documentElement.scrollWidth") <= width
    section = "[...document.querySelectorAll('section')].find(each => /people/.test(each.textContent))"
    assert opened.value(f"{section}.getBoundingClientRect().height") > 200
    drawn = opened.value(f"{section}.querySelectorAll('svg').length")
    assert drawn == (1 if name == "scores" else 0), "the calibration of scores is drawn"
    assert opened.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_and_drawings_can_be_read_by_day_and_by_night(opened: Browser, page: Path, scheme: str) -> None:
    opened.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    opened.open(page, width=1280)
    light = """((name, of) => {
      const parts = getComputedStyle(of)[name].match(/[\\d.]+/g).slice(0, 3).map((each) => each / 255);
      const [r, g, b] = parts.map((each) => each <= 0.03928 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    })"""
    paper = opened.value(f"{light}('backgroundColor', document.body)")
    words = opened.value(f"{light}('color', document.body)")
    drawn = opened.value(f"{light}('fill', document.querySelector('.chart svg text'))")
    assert (paper > 0.5) == (scheme == "light")
    for ink in (words, drawn):
        assert (max(paper, ink) + 0.05) / (min(paper, ink) + 0.05) >= 4.5


@pytest.mark.parametrize("width", WIDTHS)
def test_all_answers_are_turned_over_by_keyboard_a_page_at_a_time(
    opened: Browser, page: Path, width: int
) -> None:
    opened.open(page, width=width)
    assert opened.value(SHOWN) == f"1 to {ROWS} of 5,000, of all 5,000"
    # With all items in the page, a letter typed into the filter takes seconds to be seen.
    assert opened.value(f"{TABLE_ROWS}.length") == ROWS
    opened.value("document.getElementById('against').focus()")
    for key in ("Tab", "Tab", "Tab", "Enter"):
        opened.press(key)
    assert opened.value("document.activeElement.id") == "next"
    assert opened.value(SHOWN) == f"{ROWS + 1} to {2 * ROWS} of 5,000, of all 5,000"
    for _ in range((TASK + SUITE) // ROWS):
        opened.press("Enter")
    assert opened.value(SHOWN) == f"{5001 - ROWS:,} to 5,000 of 5,000, of all 5,000"
    assert opened.value(f"{TABLE_ROWS}.length") == ROWS


@pytest.mark.parametrize("width", WIDTHS)
def test_answers_are_filtered_by_text_set_and_outcome(opened: Browser, page: Path, width: int) -> None:
    opened.open(page, width=width)

    def shown(**chosen: str) -> str:
        for id in ("find", "set", "outcome", "against"):
            event = "input" if id == "find" else "change"
            value = chosen.get(id, "base" if id == "against" else "")
            field = f"document.getElementById('{id}')"
            opened.value(f"{field}.value = '{value}'; {field}.dispatchEvent(new Event('{event}'))")
        said: str = opened.value(SHOWN)
        return said.removeprefix(f"1 to {ROWS} of ").removesuffix(", of all 5,000")

    assert shown(set="general") == f"{SUITE:,}"
    assert shown(find="MEANING 1799") == "1 to 1 of 1"
    assert shown(find=f"{1799:016x}") == "1 to 1 of 1", "a row that few_shot was shown"
    assert opened.value(f"{TABLE_ROWS}[0].cells[3].innerText").endswith(f"shown: {1799:016x}")
    flips, won, won_more = SUITE // 3, 1800 - 100, 1800 - 600
    assert shown(set="general", outcome="lost") == f"{flips:,}"
    assert opened.value(f"{TABLE_ROWS}[0].querySelector('.fail').textContent") == "0.000 loss"
    assert shown(set="general", outcome="gained") == f"{flips:,}"
    assert shown(set="general", outcome="tie") == f"{SUITE - 2 * flips:,}"
    assert shown(outcome="loss") == f"{flips:,}"
    assert shown(outcome="win") == f"{won + flips:,}"
    assert shown(outcome="win", against="few_shot") == f"{won_more:,}"
    assert shown(outcome="unscored", against="few_shot") == f"{SUITE:,}"
    assert shown(outcome="unended") == "none of 5,000 fits"
    assert shown(find="") == "5,000"
    opened.value("document.getElementById('find').focus()")
    opened.call("Input.insertText", text="meaning 1799")
    assert opened.value(SHOWN) == "1 to 1 of 1, of all 5,000", "as it is typed"
    assert shown(find="nowhere") == "none of 5,000 fits"
    assert opened.value(f"{TABLE_ROWS}.length") == 0
    assert opened.complaints == []


@pytest.mark.parametrize("width", WIDTHS)
def test_distributions_of_scores_open_and_fit(opened: Browser, page: Path, width: int) -> None:
    opened.open(page, width=width)
    words = "How scores are distributed"
    summary = f"[...document.querySelectorAll('summary')].find(each => each.textContent === '{words}')"
    opened.value(f"{summary}.click()")
    drawn = f"{summary}.parentElement.querySelector('svg')"
    assert opened.value(f"{drawn}.getBoundingClientRect().height") > 100
    assert opened.value(f"{drawn}.getBoundingClientRect().right") <= width
    assert opened.complaints == []


def test_five_thousand_items_are_a_few_megabytes(page: Path) -> None:
    assert page.stat().st_size < 6_000_000


@pytest.mark.parametrize("width", WIDTHS)
def test_what_was_lost_opens_with_lost_ones_first(opened: Browser, page: Path, width: int) -> None:
    opened.open(page, width=width)
    words = f"Questions that only the base answers: {SUITE // 3}; that only tuned answers: {SUITE // 3}"
    summary = f"[...document.querySelectorAll('summary')].find(each => each.textContent === '{words}')"
    first = f"{summary}.parentElement.querySelector('tbody tr').innerText"
    assert not opened.value(f"{summary}.parentElement.open")
    opened.value(f"{summary}.click()")
    assert opened.value(first).startswith("lost")
