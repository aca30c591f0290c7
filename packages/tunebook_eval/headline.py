"""What a run comes to in one number: the metric of its first gate, of the tuned model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from tunebook_eval.evidence import REPORT, EvalReport
from tunebook_run.record import RunRecord
from tunebook_run.store import Store


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
        evaluation: Any = record.spec["evaluation"]  # of a version whose other fields may be others
        metric = evaluation["gates"][0]["metric"]
        found = next((each.overall for each in report.of(metric) if each.arm == "tuned"), None)
        return f"{metric} {found.shown if found else '-'}"

    def _read(self, key: str) -> EvalReport | str:
        try:
            return EvalReport.model_validate_json(self.store.read(f"{key}/{REPORT}"))
        except FileNotFoundError:
            return "cleaned away"
        except ValidationError:
            return f"{key}/{REPORT} is damaged"
