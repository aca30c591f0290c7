from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.unit.eval.answers_on_disk import asked, general, leave
from tunebook_data.card import DataCard, Example, Reason
from tunebook_data.manifest import (
    DatasetManifest,
    GeneratedCounts,
    SourceCounts,
    SplitCounts,
    Step,
    size_advice,
)
from tunebook_eval.charts import losses_svg
from tunebook_eval.decide import decide
from tunebook_eval.evaluate import evaluate
from tunebook_eval.evidence import EvalReport
from tunebook_eval.inputs import EvaluateInputs
from tunebook_eval.report import summary, write_report
from tunebook_eval.verdict import GateVerdict
from tunebook_spec.evaluation import Gate

GATES = (
    Gate(metric="glossary.line_match", at_least=0.5),
    Gate(metric="glossary.line_match", gain_over="best_baseline", at_least=0.0),
    Gate(metric="general.contains", max_drop=0.05),
)
METRICS: list[dict[str, Any]] = [
    {
        "step": step,
        "loss": 3.0 / step,
        "learning_rate": 1e-4,
        "grad_norm": 4.0 / step,
        "tokens_per_s": 400.0,
        "mfu": 0.43,
        "peak_memory_gib": 1.2 + step / 100,
        "validation_loss": 1.0 if step == 5 else None,
    }
    for step in range(1, 10)
]


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


VARIED = GeneratedCounts(
    teacher="gpt-x at a.example/v1",
    reported_models=("gpt-x-1",),
    withheld=0,
    uses_tools=0,
    asked=4,
    parsed=3,
    repaired=1,
    failed=1,
    made=6,
    rejected_by_reason={"empty content": 1},
    copies_by_reason={"a near copy": 2},
    contaminated_by_rule={},
    kept=3,
    answers=6,
    resumed=2,
    troubles={"HTTP 429": 5},
    prompt_tokens=100,
    completion_tokens=50,
    cost=0.0125,
)


def write(folder: Path, evidence: tuple[EvalReport, GateVerdict], metrics: list[dict[str, Any]]) -> str:
    split = SplitCounts(rows=9, groups=4, tokens=1234, supervised_tokens=500, longest_tokens=60)
    source = SourceCounts(
        source="notes.jsonl",
        task="glossary",
        rows_in=12,
        rejects=3,
        duplicates=0,
        capped=0,
        train=5,
        validation=2,
        test=2,
    )
    manifest = DatasetManifest(
        sources=(source,),
        rejects_by_reason={"answer too short": 3},
        splits={"train": split, "validation": split, "test": split},
        augment=VARIED,
        replay=None,
        attribution=(),
    )
    example = Example(source="notes.jsonl", line=7, field="messages[1].content", excerpt="<b>No.")
    path = write_report(
        folder,
        name="medical",
        problem="Abbreviations are <unknown>.",
        profile="local",
        report=evidence[0],
        verdict=evidence[1],
        training_metrics=metrics,
        card=DataCard(
            manifest=manifest,
            advice=size_advice(5),
            steps=(Step(name="parse", sees="all rows", rows_in=12, rows_out=9, note="records"),),
            rejects=(Reason(reason="answer too short", rows=3, examples=(example,)),),
            flags=(),
            duplicates={"exact": 0, "near": 0},
            pairs=(),
            leaks=(),
            lengths={},
            rows=(),
        ),
        stages=[{"name": "train", "seconds": 12.5, "status": "made"}],
        lineage={"seed": 0, "versions": {"torch": "2.13.0"}},
    )
    return path.read_text(encoding="utf-8")


def test_the_page_needs_nothing_else(tmp_path: Path, evidence: tuple[EvalReport, GateVerdict]) -> None:
    html = write(tmp_path, evidence, METRICS)
    page = Page(html)
    assert [load for load in page.loads if not load.startswith("#")] == []
    assert not re.search(r"@import|url\((?!#)", html)
    assert "link" not in page.tags
    assert page.tags.count("svg") == 2


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
        "thin: 40 rows",
        "only the base answers: 1; that only tuned answers: 0",
        "lost note 3",
        "1. parse all rows 12 9 -3 records",
        "answer too short 3 25.0 % notes.jsonl:7 messages[1].content <b>No.",
        "train made 12.5",
        "torch",
    ):
        assert part in words.replace(" 2.13.0", "")
    assert "glossary / seen note 1 AKI: meaning 1 MRI: imaging" in words


def test_what_a_teacher_made_is_told_with_its_troubles_and_cost(
    tmp_path: Path, evidence: tuple[EvalReport, GateVerdict]
) -> None:
    words = Page(write(tmp_path, evidence, METRICS)).words
    told = "3 of 6 variations of 4 rows kept (1 repaired, 1 failed, 1 rejected, 2 copies, 2 answers not asked"
    assert f"gpt-x at a.example/v1: {told} for again, 5 x HTTP 429, 150 tokens, cost 0.0125)." in words


def test_what_a_model_wrote_is_shown_and_never_run(
    tmp_path: Path, evidence: tuple[EvalReport, GateVerdict]
) -> None:
    page = Page(write(tmp_path, evidence, METRICS))
    assert page.tags.count("script") == 1
    assert "<script>alert('x')</script>" in page.words
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


def test_a_run_without_training_metrics_says_so(
    tmp_path: Path, evidence: tuple[EvalReport, GateVerdict]
) -> None:
    assert "No training metrics." in Page(write(tmp_path, evidence, [])).words


def test_the_summary_ends_with_the_verdict(evidence: tuple[EvalReport, GateVerdict]) -> None:
    lines = summary(evidence[1], evidence[0]).splitlines()
    row = next(line for line in lines if "glossary.line_match" in line)
    assert re.search(r"0\.000 .* 0\.300 ± 0\.\d+ .* 0\.950 ± 0\.\d+ .* 0\.500 .*majority +40$", row)
    assert lines[-1] == "verdict: inconclusive (2 pass, 0 fail, 1 inconclusive)"
