"""The report of a large evaluation, in a browser, on a desk and on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import CHROMIUM, Browser, browser
from tests.unit.eval.answers_on_disk import asked, general, leave
from tests.unit.eval.report_page import METRICS, write
from tunebook_eval.decide import decide
from tunebook_eval.evaluate import evaluate
from tunebook_eval.examples import MAX_PER_SET
from tunebook_eval.inputs import EvaluateInputs
from tunebook_spec.evaluation import Gate

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, of this machine's packages")

TASK, SUITE = 2000, 3000
"""Items, each answered by base and tuned: of a task, also by few_shot; of a suite, which a third flips."""
WIDTHS = (1280, 390)


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


def type_in(text: str) -> str:
    find = "document.getElementById('find')"
    return f"{find}.value = '{text}'; {find}.dispatchEvent(new Event('input'))"


@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_the_window_and_the_console_stays_empty(opened: Browser, page: Path, width: int) -> None:
    opened.open(page, width=width)
    assert opened.value("document.documentElement.scrollWidth") <= width
    opened.value("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert opened.value("document.documentElement.scrollWidth") <= width
    opened.value(type_in("note"))
    assert opened.complaints == []


@pytest.mark.parametrize("width", WIDTHS)
def test_filtering_shows_the_rows_that_match_of_few_enough_to_do_it_at_once(
    opened: Browser, page: Path, width: int
) -> None:
    opened.open(page, width=width)
    rows = "[...document.querySelectorAll('#answers tbody tr')]"
    shown = f"{rows}.filter(row => row.offsetParent).length"
    everything = opened.value(shown)
    # With all items in the page, a letter typed into the filter takes seconds to be seen.
    assert everything == opened.value(f"{rows}.length") == 2 * MAX_PER_SET
    opened.value(type_in("note 19"))
    assert 0 < opened.value(shown) < everything
    opened.value(type_in(""))
    assert opened.value(shown) == everything


@pytest.mark.parametrize("width", WIDTHS)
def test_what_was_lost_opens_with_lost_ones_first(opened: Browser, page: Path, width: int) -> None:
    opened.open(page, width=width)
    words = f"Questions that only the base answers: {SUITE // 3}; that only tuned answers: {SUITE // 3}"
    summary = f"[...document.querySelectorAll('summary')].find(each => each.textContent === '{words}')"
    first = f"{summary}.parentElement.querySelector('tbody tr').innerText"
    assert not opened.value(f"{summary}.parentElement.open")
    opened.value(f"{summary}.click()")
    assert opened.value(first).startswith("lost")
