"""A report page of some evidence, with the data card and the lineage of a small run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunebook_data.card import DataCard, Example, LossOutlier, LossOutliers, Reason
from tunebook_data.manifest import (
    DatasetManifest,
    GeneratedCounts,
    SourceCounts,
    SplitCounts,
    Step,
    size_advice,
)
from tunebook_eval.evidence import EvalReport
from tunebook_eval.report import write_report
from tunebook_eval.verdict import GateVerdict

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


def write(
    folder: Path,
    evidence: tuple[EvalReport, GateVerdict],
    metrics: list[dict[str, Any]],
    price_per_hour: float | None = None,
) -> str:
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
    outlier = LossOutlier(
        loss=7.25, supervised_tokens=4, task="glossary", place="notes.jsonl:8", excerpt="...<i>zq#~"
    )
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
            loss_outliers=LossOutliers(median=1.5, scored=5, rows=(outlier,)),
            lengths={},
            rows=(),
        ),
        stages=[{"name": "train", "seconds": 12.5, "status": "made"}],
        price_per_hour=price_per_hour,
        lineage={"seed": 0, "versions": {"torch": "2.13.0"}},
    )
    return path.read_text(encoding="utf-8")
