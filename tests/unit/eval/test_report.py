from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from tests.unit.eval.answers_on_disk import asked, general, leave
from tests.unit.eval.report_page import METRICS, write
from tunebook_eval.charts import distribution_svg, losses_svg
from tunebook_eval.decide import decide
from tunebook_eval.evaluate import evaluate
from tunebook_eval.evidence import EvalReport
from tunebook_eval.inputs import EvaluateInputs
from tunebook_eval.report import summary
from tunebook_eval.verdict import GateVerdict
from tunebook_spec.evaluation import Gate

GATES = (
    Gate(metric="glossary.line_match", at_least=0.5),
    Gate(metric="glossary.line_match", gain_over="best_baseline", at_least=0.0),
    Gate(metric="general.contains", max_drop=0.05),
)


class Page(HTMLParser):
    """What a browser would load, and what a reader would read."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")
        ]

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture
def evidence(tmp_path: Path) -> tuple[EvalReport, GateVerdict]:
    def answers(right: int, text: str) -> list[Any]:
        task = [asked(n, f"AKI: meaning {n}\nMRI: imaging" if n < right else "AKI: no") for n in range(40)]
        return [*task, *(general(n, text if n == 3 else "yes") for n in range(30))]

    arms = {
        "base": answers(0, "yes"),
        "few_shot": [each for each in answers(12, "") if each.set == "glossary"],
        "tuned": answers(38, "<script>alert('x')</script>"),
        "baselines": [asked(n, "MRI: imaging", rule="majority") for n in range(40)],
    }
    folders = {arm: leave(tmp_path, arm, of_arm) for arm, of_arm in arms.items()}
    inputs = EvaluateInputs.model_validate(
        {"metrics": {"glossary": ("line_match",), "general": ("contains",)}}
    )
    report = evaluate(inputs, arms=folders, judges={}, out=tmp_path)
    return report, decide(report, GATES, {})


def test_the_page_needs_nothing_else(tmp_path: Path, evidence: tuple[EvalReport, GateVerdict]) -> None:
    html = write(tmp_path, evidence, METRICS)
    page = Page(html)
    assert [load for load in page.loads if not load.startswith("#")] == []
    assert not re.search(r"@import|url\((?!#)", html)
    assert "link" not in page.tags
    assert page.tags.count("svg") == 3


def test_the_verdict_comes_first_and_each_gate_with_its_evidence(
    tmp_path: Path, evidence: tuple[EvalReport, GateVerdict]
) -> None:
    words = Page(write(tmp_path, evidence, METRICS)).words
    assert words.index("2 pass, 0 fail, 1 inconclusive of 3 gates") < words.index("Gates")
    for each in evidence[1].results:
        assert f"{each.outcome} {each.rule} {each.evidence}" in words


def test_scores_answers_rejects_times_and_lineage_are_on_the_page(
    tmp_path: Path, evidence: tuple[EvalReport, GateVerdict]
) -> None:
    words = Page(write(tmp_path, evidence, METRICS)).words
    for part in (
        "majority rule",
        "glossary.line_match improved 0.",
        "38 / 2 / 0",
        "thin: 40 rows",
        "only the base answers: 1; that only tuned answers: 0",
        "lost note 3",
        "1. parse all rows 12 9 -3 records",
        "answer too short 3 25.0 % notes.jsonl:7 messages[1].content <b>No.",
        "7.25 4 glossary notes.jsonl:8 ...<i>zq#~",
        "train made 12.5",
        "torch",
    ):
        assert part in words.replace(" 2.13.0", "")
    assert "All 70 items." in words


def test_scores_between_right_and_wrong_are_drawn_as_a_distribution_by_arm(
    tmp_path: Path, evidence: tuple[EvalReport, GateVerdict]
) -> None:
    words = Page(write(tmp_path, evidence, METRICS)).words
    assert words.count("How scores are distributed") == 1, "of glossary alone: general is right or wrong"
    for told in (
        "base, highest bar 100% of 40",
        "few_shot, highest bar 70% of 40",
        "tuned, highest bar 95% of 40",
        "majority, highest bar ",
    ):
        assert told in words
    report = evidence[0]
    assert distribution_svg(report.of("general.contains")) is None
    below = [
        each.model_copy(update={"scores": {"a": -3.5, "b": -1.0}}) for each in report.of("general.contains")
    ]
    assert "\N{MINUS SIGN}3.5" in (distribution_svg(below) or "")


def test_what_tuning_brought_into_a_suite_of_the_unwanted_is_no_gain(tmp_path: Path) -> None:
    arms = {
        arm: leave(tmp_path, arm, [general(n, "yes" if n in said else "no") for n in range(30)])
        for arm, said in (("base", {3}), ("tuned", {4, 5}))
    }
    inputs = EvaluateInputs.model_validate({"metrics": {"general": ("contains",)}})
    report = evaluate(inputs, arms=arms, judges={}, out=tmp_path)

    def listed(gate: Gate) -> list[str]:
        html = write(tmp_path, (report, decide(report, (gate,), {})), METRICS)
        return re.findall(r'<td class="outcome (pass|fail)">((?:lost|gained)[^<]*)</td>', html)

    assert listed(Gate(metric="general.contains", max_drop=0.05)) == [
        ("fail", "lost"),
        ("pass", "gained"),
        ("pass", "gained"),
    ]
    assert listed(Gate(metric="general.contains", at_most=0.05)) == [
        ("fail", "gained, unwanted contains"),
        ("fail", "gained, unwanted contains"),
        ("pass", "lost, unwanted contains"),
    ]


def test_more_of_what_is_unwanted_is_worse(tmp_path: Path) -> None:
    arms = {
        arm: leave(
            tmp_path,
            arm,
            [
                general(n, "yes" if n < said else "no").model_copy(update={"group": f"g{n}"})
                for n in range(30)
            ],
        )
        for arm, said in (("base", 0), ("tuned", 20))
    }
    inputs = EvaluateInputs.model_validate({"metrics": {"general": ("contains",)}})
    report = evaluate(inputs, arms=arms, judges={}, out=tmp_path)

    def changed(gate: Gate) -> str:
        words = Page(write(tmp_path, (report, decide(report, (gate,), {})), METRICS)).words
        return words[words.index("What tuning changed") :]

    assert "general.contains improved 0.000 0.667 20 / 10 / 0" in changed(
        Gate(metric="general.contains", max_drop=0.1)
    )
    assert "general.contains unwanted worse" in changed(Gate(metric="general.contains", at_most=0.1))


def test_what_a_teacher_made_is_told_with_its_troubles_and_cost(
    tmp_path: Path, evidence: tuple[EvalReport, GateVerdict]
) -> None:
    words = Page(write(tmp_path, evidence, METRICS)).words
    told = "3 of 6 variations of 4 rows kept (1 repaired, 1 failed, 1 rejected, 2 copies, 2 answers not asked"
    assert f"gpt-x at a.example/v1: {told} for again, 5 x HTTP 429, 150 tokens, cost 0.0125)." in words


def test_what_a_model_wrote_is_shown_and_never_run(
    tmp_path: Path, evidence: tuple[EvalReport, GateVerdict]
) -> None:
    html = write(tmp_path, evidence, METRICS)
    page = Page(html)
    assert page.tags.count("script") == 2
    assert "<script>alert('x')</script>" in page.words
    rows = json.loads(html[html.index('{"arms"') : html.index("</script>", html.index('{"arms"'))])["rows"]
    assert "<script>alert('x')</script>" in [row[5][2] for row in rows]
    assert "Abbreviations are <unknown>." in page.words


def test_where_training_stopped_early_the_best_step_is_named_and_drawn(
    tmp_path: Path, evidence: tuple[EvalReport, GateVerdict]
) -> None:
    metrics = [{**each, "is_best": True} if each["step"] == 5 else each for each in METRICS]
    plain, stopped = (Page(write(tmp_path, evidence, each)).words for each in (METRICS, metrics))
    assert "validation loss of the best step, which was kept 1.000 at 5" in stopped
    assert "best, kept" in losses_svg(metrics)
    assert "best" not in losses_svg(METRICS)
    assert "best step" not in plain


def test_how_training_used_the_machine_is_on_the_page(
    tmp_path: Path, evidence: tuple[EvalReport, GateVerdict]
) -> None:
    words = Page(write(tmp_path, evidence, METRICS)).words
    assert "share of what plain matrix products reach here 43 %" in words
    assert "peak memory of the first worker 1.3 GiB" in words
    assert "gradient norm, largest 4.000" in words


def test_what_a_query_takes_of_each_arm_is_on_the_page_and_money_where_a_price_is_known(
    tmp_path: Path, evidence: tuple[EvalReport, GateVerdict]
) -> None:
    words, priced = (Page(write(tmp_path, evidence, METRICS, price)).words for price in (None, 3.6))
    head = "arm queries prompt tokens per query of them cached answer tokens per query seconds per answer"
    assert f"{head} base 40 20.0 12.0 10.0 0.100 few_shot 40 20.0 12.0 10.0 0.100 tuned 40" in words
    assert "over the prompts that every arm answered: glossary." in words
    assert "general, tuned 30 20.0 12.0 10.0 0.100" in words
    assert "One update of tuned, training and merging: 12 s." in words
    assert "cost" not in words[words.index(head) :].partition("By set")[0]
    assert f"{head} cost of 1,000 queries base 40 20.0 12.0 10.0 0.100 0.1000 few_shot" in priced
    assert "training and merging: 12 s, cost 0.0125." in priced


def test_averages_stand_beside_what_tuning_changed(
    tmp_path: Path, evidence: tuple[EvalReport, GateVerdict]
) -> None:
    words = Page(write(tmp_path, evidence, METRICS)).words
    assert "base average tuned average win / tie / loss tuned minus base" in words
    assert "glossary.line_match improved 0.000 0.950 38 / 2 / 0 0.950" in words


def test_a_run_without_training_metrics_says_so(
    tmp_path: Path, evidence: tuple[EvalReport, GateVerdict]
) -> None:
    assert "No training metrics." in Page(write(tmp_path, evidence, [])).words


def test_programs_read_the_verdict_with_all_its_evidence(
    tmp_path: Path, evidence: tuple[EvalReport, GateVerdict]
) -> None:
    write(tmp_path, evidence, METRICS)
    told = json.loads((tmp_path / "report.json").read_text())
    assert told["outcome"] == "inconclusive"
    assert GateVerdict.model_validate(told["verdict"]) == evidence[1]
    assert EvalReport.model_validate(told) == evidence[0]


def test_the_summary_ends_with_the_verdict(evidence: tuple[EvalReport, GateVerdict]) -> None:
    lines = summary(evidence[1], evidence[0]).splitlines()
    row = next(line for line in lines if "glossary.line_match" in line)
    assert re.search(r"0\.000 .* 0\.300 ± 0\.\d+ .* 0\.950 ± 0\.\d+ .* 0\.500 .*majority +40$", row)
    assert lines[-1] == "verdict: inconclusive (2 pass, 0 fail, 1 inconclusive)"


def test_beside_the_page_lies_markdown_for_a_pull_request(
    tmp_path: Path, evidence: tuple[EvalReport, GateVerdict]
) -> None:
    write(tmp_path, evidence, [])
    html = MarkdownIt("commonmark").enable("table").render((tmp_path / "summary.md").read_text())
    assert html.startswith("<h3>medical, profile local: inconclusive</h3>")
    tables = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", each) for each in html.split("<table>")[1:]]
    gates, metrics = tables
    assert gates[:3] == ["", "gate", "evidence"]
    assert gates[3::3] == [each.outcome for each in evidence[1].results]
    assert gates[5].startswith("0.950, 95 % above")
    assert metrics[:6] == ["metric", "base", "few_shot", "tuned", "best rule", "n"]
    row = metrics[metrics.index("glossary.line_match") :][:6]
    assert [cell.split(" ")[0] for cell in row] == [
        "glossary.line_match",
        "0.000",
        "0.300",
        "0.950",
        "0.500",
        "40",
    ]


def test_the_summary_tells_what_a_query_takes(evidence: tuple[EvalReport, GateVerdict]) -> None:
    verdict, report = evidence[1], evidence[0]
    plain = summary(verdict, report)
    assert re.search(r"per query, of 40 +prompt tokens +cached +answer tokens +seconds\n", plain)
    assert re.search(r"few_shot +20\.0 +12\.0 +10\.0 +0\.100\n", plain)
    assert "update" not in plain
    priced = summary(verdict, report, update_s=100.0, price_per_hour=3.6)
    assert re.search(r"few_shot +20\.0 +12\.0 +10\.0 +0\.100 +0\.1000\n", priced)
    assert "one update of tuned, training and merging: 100 s, cost 0.1000\n" in priced
    old = report.model_copy(update={"queries": ()})
    assert "per query" not in summary(verdict, old)
