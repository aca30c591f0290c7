"""From answers to evidence, and to a verdict."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from tunebook_cli.stages.work import Outcome, Work, by_name, embedder, without_summary
from tunebook_run.stages import read_artifact

logger = logging.getLogger(__name__)


def evaluate_stage(work: Work) -> Outcome:
    from tunebook_eval.evaluate import evaluate
    from tunebook_eval.inputs import EvaluateInputs

    arms, judges = by_name(work.parents, "answer-"), by_name(work.parents, "judge-")
    inputs = EvaluateInputs.model_validate(work.fields)
    embed = embedder(work.settings.assets_dir)
    report = evaluate(inputs, arms=arms, judges=judges, out=work.out, embed=embed)
    scored = f"{len(report.scores)} scores of {len(arms)} arms; {len(report.flips)} flips"
    for warning in report.warnings:
        logger.warning("%-16s %s", "evaluate", warning)
    return Outcome({"warnings": list(report.warnings)}, scored)


def decide_stage(work: Work) -> Outcome:
    from tunebook_data.card import read_card
    from tunebook_data.manifest import DatasetManifest
    from tunebook_eval.costs import update_seconds
    from tunebook_eval.decide import decide
    from tunebook_eval.evaluate import read_report
    from tunebook_eval.inputs import DecideInputs
    from tunebook_eval.report import summary, write_report

    inputs = DecideInputs.model_validate(work.fields)
    report = read_report(work.parents["evaluate"])
    verdict = decide(report, inputs.gates, inputs.bounds)
    # The card tells what any attempt would; a run's report also tells what this one met.
    card = read_card(work.parents["prepare"])
    prepared = read_artifact(work.store, work.request.parents["prepare"])
    assert prepared is not None
    facts = work.request.facts
    trained = work.parents.get("train")
    training_metrics = _training_metrics(trained / "metrics.jsonl") if trained else []
    price = work.settings.local_price_per_hour
    made = read_artifact(work.store, work.request.parents["train"]) if trained else None
    hosted = made.result if made and "provider" in made.result else None
    write_report(
        work.out,
        name=inputs.name,
        problem=inputs.problem,
        profile=facts["profile"],
        report=report,
        verdict=verdict,
        training_metrics=training_metrics,
        card=card.model_copy(update={"manifest": DatasetManifest.model_validate(without_summary(prepared))}),
        stages=facts["stages"],
        price_per_hour=price,
        lineage=facts["lineage"],
        hosted=hosted,
    )
    update_s = update_seconds(facts["stages"], training_metrics)
    lines = summary(verdict, report, update_s=update_s, price_per_hour=price, hosted=hosted).splitlines()
    return Outcome({"verdict": verdict.outcome, "lines": lines}, f"{verdict.outcome}; report.html")


def _training_metrics(path: Path) -> list[dict[str, Any]]:
    """One entry a step, with its validation loss where there was one."""
    steps: dict[int, dict[str, Any]] = {}
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        if "step" in entry:
            steps.setdefault(entry["step"], {}).update(entry)
    return list(steps.values())
