"""What a metric of a run is: all that its number hangs on beside the tuned model and the questions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from tunebook_eval.answers import Answer
from tunebook_eval.evidence import EvalReport, JudgeEvidence
from tunebook_eval.inputs import EvaluateInputs
from tunebook_run.differences import differences
from tunebook_run.stages import Artifact
from tunebook_spec.errors import StageError
from tunebook_spec.metrics import AnyMetric, CodeRuff, Judged, Pairwise, fields_of_rows

MAX_TOLD = 3
"""Differences that are spelt out."""
_NOT_MEASURED_BY = {"name", "judge", "golden", "may_judge_itself"}
"""What a metric is called, the name of the judge's role, and what decides what its word is worth."""


@dataclass(frozen=True)
class Definition:
    options: Mapping[str, Any]
    """Its own, how answers were made, and what scored them."""
    of_items: Mapping[str, Mapping[str, Any]]
    """What each answer is held against beside its reference, by what that is and item."""

    def unlike(self, other: Definition) -> str:
        """What is defined otherwise; empty where all is the same."""
        found = [
            f"{each.path} ({', '.join(each.shown)})" for each in differences(self.options, other.options)
        ]
        told = [*found[:MAX_TOLD], *([f"{more} more"] if (more := len(found) - MAX_TOLD) > 0 else [])]
        return ", ".join((*told, *self._items_unlike(other)))

    def _items_unlike(self, other: Definition) -> Iterator[str]:
        for what, mine in self.of_items.items():
            theirs = other.of_items.get(what, {})
            shared = mine.keys() & theirs.keys()
            if num := sum(mine[item] != theirs[item] for item in shared):
                yield f"{what} ({num} of {len(shared)} rows differ)"


def definitions(
    evaluated: Artifact,
    answered: Artifact,
    report: EvalReport,
    answers: Mapping[str, Sequence[Answer]],
) -> dict[tuple[str, str], Definition]:
    """By set and metric.

    Args:
        evaluated: What `evaluate` left.
        answered: What the tuned model's answers came with.
        report: Of `evaluate`.
        answers: Of the tuned model, and of each arm that a judge holds it against.

    Raises:
        StageError: the metrics are those of another version of Tunebook.
    """
    try:
        metrics = EvaluateInputs.model_validate(evaluated.inputs["fields"]).metrics
    except ValidationError as error:
        first = error.errors()[0]
        raise StageError(
            f"evaluate-{evaluated.digest[:12]}: its metrics are of another version of Tunebook"
            f" ({'.'.join(map(str, first['loc']))}: {first['msg']}); run its spec again"
        ) from None
    judges = {(each.set, each.metric): each for each in report.judges}
    return {
        (name, metric.label): Definition(
            options={
                **metric.model_dump(mode="json", exclude=_not_measured_by(metric)),
                **_decoding(answered, name),
                **_scorer(metric, evaluated, judges.get((name, metric.label))),
            },
            of_items=dict(_of_items(name, metric, answers)),
        )
        for name, of_set in metrics.items()
        for metric in of_set
    }


def _not_measured_by(metric: AnyMetric) -> set[str]:
    return _NOT_MEASURED_BY | (set(metric.bounds) if isinstance(metric, Judged) else set())


def _decoding(answered: Artifact, name: str) -> dict[str, Any]:
    """How the set was answered; fixed texts are not."""
    fields: Any = answered.inputs["fields"]
    of_set = fields["sets"].get(name, {})
    if of_set.get("texts") is not None:
        return {}
    asked = {each: of_set.get(each) for each in ("max_tokens", "json_schema")}
    return {**asked, "temperature": fields.get("temperature")}


def _scorer(metric: AnyMetric, evaluated: Artifact, judge: JudgeEvidence | None) -> dict[str, Any]:
    libraries: Any = evaluated.inputs["libraries"]
    scorer: dict[str, Any] = {"format of evaluate": evaluated.inputs["format"]}
    if isinstance(metric, CodeRuff):
        scorer["ruff"] = libraries["ruff"]
    if judge is not None:
        scorer["judge"] = ", ".join((judge.who, *sorted(judge.reported_models)))
    return scorer


def _of_items(
    name: str, metric: AnyMetric, answers: Mapping[str, Sequence[Answer]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    for field in fields_of_rows(metric):
        of_set = (each for each in answers["tuned"] if each.set == name)
        yield f"the rows' field {field!r}", {each.item: each.meta.get(field) for each in of_set}
    if isinstance(metric, Pairwise):
        beside = (each for each in answers[metric.against] if each.set == name)
        yield f"the answers of {metric.against}", {each.item: each.text for each in beside}
