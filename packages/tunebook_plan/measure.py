"""What a run's report says of the arms, for advice."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

import orjson
from pydantic import ValidationError

from tunebook_eval.costs import of_shared_sets, update_seconds
from tunebook_eval.evidence import REPORT, ArmScores, EvalReport
from tunebook_eval.headline import headline
from tunebook_eval.statistics import difference_bounds
from tunebook_plan.facts import Measured, Score, Way
from tunebook_run.record import RunRecord
from tunebook_run.stages import read_artifact
from tunebook_run.store import Store
from tunebook_spec import LoadedSpec, Spec
from tunebook_spec.evaluation import AskedSet, TextsSet, unwanted
from tunebook_spec.metrics import Consistency

logger = logging.getLogger(__name__)

WAYS: dict[str, Way] = {
    "base": "prompting",
    "few_shot": "prompting",
    "retrieval": "retrieval",
    "tuned": "tuning",
}


def read_evidence(record: RunRecord, store: Store) -> EvalReport:
    """The report of a run that was evaluated."""
    return EvalReport.model_validate_json(store.read(f"{record.stage('evaluate').key}/{REPORT}"))


def measure(record: RunRecord, loaded: LoadedSpec, store: Store) -> Measured | None:
    """What the run's report says of the headline metric of the spec that ran.

    None where spec or report are of another version of Tunebook, which is logged: it stops no run.
    """
    try:
        report, spec = read_evidence(record, store), Spec.model_validate(record.spec)
    except ValidationError:
        logger.warning("advice goes without run %s, which is of another version of Tunebook", record.name)
        return None
    metric = headline(spec)
    known = _known(report, metric)
    return Measured(
        run=f"{record.scenario}@{record.number}",
        is_of_this_spec=_what_ran(spec) == _what_ran(loaded.spec),
        metric=metric,
        scores=scores_of(report, metric),
        queries=tuple(of_shared_sets(report.queries)),
        update_s=_update_s(record, store),
        worse=tuple(_worse(report, spec)),
        consistency=_consistency(report, spec),
        **_lead(report, known),
    )


def _what_ran(spec: Spec) -> dict[str, Any]:
    return spec.model_dump(exclude={"needs": True, "problem": True, "evaluation": {"gates"}})


def scores_of(report: EvalReport, metric: str) -> tuple[Score, ...]:
    """Of a metric, what each arm of the spec's own model and each rule reached."""
    return tuple(map(_score, _known(report, metric)))


def _known(report: EvalReport, metric: str) -> list[ArmScores]:
    known = [each for each in report.of(metric) if each.arm in WAYS or each.is_rule]
    return [each for each in known if each.overall is not None and not each.is_reference]


def _score(scores: ArmScores) -> Score:
    assert scores.overall is not None
    way: Way = "rule" if scores.is_rule else WAYS[scores.arm]
    return Score(arm=scores.arm, way=way, mean=scores.overall.mean, stderr=scores.overall.stderr)


def _lead(report: EvalReport, known: Sequence[ArmScores]) -> dict[str, Any]:
    """Tuned over the best of the rest, item by item, as gates judge a gain."""
    tuned = next((each for each in known if each.arm == "tuned"), None)
    rest = [(each.overall.mean, each) for each in known if each is not tuned and each.overall]
    if tuned is None or not rest:
        return {"lead_over": None, "lead": 0.0, "low": None, "high": None}
    best = max(rest, key=lambda pair: pair[0])[1]
    items = [item for item in tuned.scores if item in best.scores]
    if not items:
        return {"lead_over": None, "lead": 0.0, "low": None, "high": None}
    groups = [report.groups[tuned.set][item] for item in items]
    bounds = difference_bounds([tuned.scores[i] for i in items], [best.scores[i] for i in items], groups)
    return {"lead_over": best.arm, "lead": bounds.mean, "low": bounds.low, "high": bounds.high}


def _update_s(record: RunRecord, store: Store) -> float | None:
    """As the report tells it, whichever run made the stages."""
    stages = []
    for name in ("train", "merge"):
        key = next((stage.key for stage in record.stages if stage.name == name), None)
        artifact = read_artifact(store, key) if key else None
        if artifact is None:
            return None
        stages.append({"name": name, "seconds": artifact.seconds})
    lines = store.read(f"{record.stage('train').key}/metrics.jsonl").splitlines()
    return update_seconds(stages, [orjson.loads(line) for line in lines])


def _worse(report: EvalReport, spec: Spec) -> Iterator[str]:
    bad = unwanted(spec.evaluation.gates)
    for each in report.changes:
        name, of_set = f"{each.set}.{each.metric}", spec.evaluation.sets.get(each.set)
        if isinstance(of_set, AskedSet | TextsSet) and each.outcome_of(is_unwanted=name in bad) == "worse":
            yield name


def _consistency(report: EvalReport, spec: Spec) -> dict[str, float]:
    """By arm, the mean over the sets that measure it."""
    names = {
        (name, metric.label)
        for name, each in spec.evaluation.sets.items()
        for metric in each.metrics
        if isinstance(metric, Consistency)
    }
    found: dict[str, list[float]] = {}
    for each in report.scores:
        if (each.set, each.metric) in names and each.overall is not None:
            found.setdefault(each.arm, []).append(each.overall.mean)
    return {arm: fmean(values) for arm, values in found.items()}
