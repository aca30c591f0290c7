"""Runs of several scenarios in one table."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from tunebook_eval.evidence import ArmScores, EvalReport
from tunebook_eval.headline import headline
from tunebook_eval.statistics import difference_bounds
from tunebook_plan.facts import Score
from tunebook_plan.measure import read_evidence, scores_of
from tunebook_run.record import RunRecord
from tunebook_run.store import Store
from tunebook_spec import Spec
from tunebook_spec.evaluation import AskedSet, unwanted
from tunebook_spec.fields import Frozen


class Drop(Frozen):
    """What tuning has cost of general ability: base minus tuned."""

    mean: float
    high: float | None
    """With 95 % confidence it is below this; none: too few groups to say."""


class ScenarioRow(Frozen):
    scenario: str
    verdict: str
    metric: str = "-"
    scores: tuple[Score, ...] = ()
    drop: Drop | None = None
    """None: no suite was asked."""
    minutes: float | None = None
    """What this run took, with little left to make where it had run before."""


def scenario_row(record: RunRecord, store: Store) -> ScenarioRow:
    """What a run came to; its numbers where it was evaluated."""
    minutes = None
    if record.finished_at is not None:
        minutes = (record.finished_at - record.started_at).total_seconds() / 60
    row = ScenarioRow(scenario=record.scenario, verdict=record.status, minutes=minutes)
    if all(stage.name != "evaluate" for stage in record.stages):
        return row
    report, spec = read_evidence(record, store), record.read_spec()
    metric = headline(spec)
    numbers = {"metric": metric, "scores": scores_of(report, metric), "drop": _drop(report, spec)}
    return row.model_copy(update=numbers)


def _drop(report: EvalReport, spec: Spec) -> Drop | None:
    """Of the first suite of what is wanted."""
    bad = unwanted(spec.evaluation.gates)
    for name, each in spec.evaluation.sets.items():
        metric = f"{name}.{each.metrics[0].label}"
        if isinstance(each, AskedSet) and metric not in bad:
            arms = {of.arm: of for of in report.of(metric)}
            if "base" in arms and "tuned" in arms:
                return _between(report, arms["base"], arms["tuned"])
    return None


def _between(report: EvalReport, base: ArmScores, tuned: ArmScores) -> Drop | None:
    items = [item for item in base.scores if item in tuned.scores]
    if not items:
        return None
    groups = [report.groups[base.set][item] for item in items]
    bounds = difference_bounds([base.scores[i] for i in items], [tuned.scores[i] for i in items], groups)
    return Drop(mean=bounds.mean, high=bounds.high)


def table(rows: Sequence[ScenarioRow]) -> Table:
    made = Table(box=box.SIMPLE, pad_edge=False)
    for column in ("scenario", "verdict", "metric", "base", "few-shot", "best rule", "tuned"):
        made.add_column(column, justify="left" if column in ("scenario", "verdict", "metric") else "right")
    made.add_column("general drop", justify="right")
    made.add_column("minutes", justify="right")
    for row in rows:
        made.add_row(row.scenario, row.verdict, row.metric, *_cells(row))
    return made


def _cells(row: ScenarioRow) -> tuple[str, ...]:
    by_arm = {each.arm: each for each in row.scores}
    rules = [each for each in row.scores if each.way == "rule"]
    rule = max(rules, key=lambda each: each.mean, default=None)
    drop = "-"
    if row.drop is not None:
        drop = f"{row.drop.mean:+.3f}" + (f", below {row.drop.high:.3f}" if row.drop.high is not None else "")
    return (
        _score(by_arm.get("base")),
        _score(by_arm.get("few_shot")),
        f"{_score(rule)} {rule.arm}" if rule else "-",
        _score(by_arm.get("tuned")),
        drop,
        "-" if row.minutes is None else f"{row.minutes:.1f}",
    )


def _score(score: Score | None) -> str:
    if score is None:
        return "-"
    return f"{score.mean:.3f}" + ("" if score.stderr is None else f" ± {score.stderr:.3f}")
