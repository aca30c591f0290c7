"""What a run comes to in one number."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import ValidationError

from tunebook_eval.evidence import REPORT, EvalReport
from tunebook_run.record import RunRecord
from tunebook_run.store import Store
from tunebook_spec import Spec
from tunebook_spec.evaluation import TaskSet


def headline(spec: Spec) -> str:
    """The metric that a scenario is about: the first that gates ask a gain of, else the first of a task.

    What gates keep from being high is none. Where no other of a task is gated, the first metric of the first
    set.
    """
    sets = spec.evaluation.sets
    gated = [
        gate
        for gate in spec.evaluation.gates
        if gate.arm == "tuned"
        and gate.at_most is None
        and isinstance(sets[gate.metric.partition(".")[0]], TaskSet)
    ]
    gains = [gate for gate in gated if gate.gain_over is not None]
    for gate in (*gains, *gated):
        return gate.metric
    name, first = next(iter(sets.items()))
    return f"{name}.{first.metrics[0].label}"


@dataclass
class Headlines:
    """Reads the report of each evaluation once, however many runs share it."""

    store: Store
    _reports: dict[str, EvalReport | str] = field(default_factory=dict)

    def of(self, record: RunRecord) -> str:
        """`glossary.line_match 0.940 ± 0.008`, or why there is none."""
        key = next((each.key for each in record.stages if each.name == "evaluate"), None)
        if key is None:
            return "-"
        if key not in self._reports:
            self._reports[key] = self._read(key)
        report = self._reports[key]
        if isinstance(report, str):
            return report
        try:
            metric = headline(Spec.model_validate(record.spec))
        except ValidationError:
            return "of another version of Tunebook"
        found = next((each.overall for each in report.of(metric) if each.arm == "tuned"), None)
        return f"{metric} {found.shown if found else '-'}"

    def _read(self, key: str) -> EvalReport | str:
        try:
            return EvalReport.model_validate_json(self.store.read(f"{key}/{REPORT}"))
        except FileNotFoundError:
            return "cleaned away"
        except ValidationError:
            return f"{key}/{REPORT} is damaged"
