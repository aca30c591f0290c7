"""Whether a run's verdict follows from its report, and its record from its spec."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from tunebook_eval.decide import decide
from tunebook_eval.evidence import EvalReport
from tunebook_eval.inputs import DecideInputs
from tunebook_eval.verdict import Outcome
from tunebook_run.record import RunRecord
from tunebook_run.stages import ARTIFACT, Artifact
from tunebook_run.verify import Finding
from tunebook_spec import Spec


def verdict_findings(record: RunRecord, decided: Artifact, report: EvalReport) -> Iterator[Finding]:
    """What the stage, the run and the report say otherwise than each other.

    Args:
        record: of a run that has decided.
        decided: what `decide` left.
        report: what it had decided by.
    """
    inputs = DecideInputs.model_validate(decided.inputs["fields"])
    verdict = decide(report, inputs.gates, inputs.bounds)
    said: Any = decided.result.get("verdict")
    told: Any = decided.result.get("lines", [])
    if said != verdict.outcome or tuple(told[-len(verdict.lines) :]) != verdict.lines:
        now = f"its report gives {verdict.lines[-1]!r}, and it says {(told or [said])[-1]!r}"
        yield Finding(f"decide: {ARTIFACT}", now)
    if record.status in get_args(Outcome) and (record.status, list(record.verdict)) != (said, told):
        yield Finding("run.json", f"says {record.status}, and the stage that decided says {said}")


def record_findings(record: RunRecord, spec: Spec) -> Iterator[Finding]:
    """What a run's record says otherwise than itself.

    Args:
        record: of the run.
        spec: that the record holds.
    """
    for name, said, of_spec in (("seed", record.seed, spec.seed), ("scenario", record.scenario, spec.name)):
        if said != of_spec:
            yield Finding(f"run.json: {name}", f"is {said!r}, and {of_spec!r} in its spec")
    has_decided = any(stage.name == "decide" for stage in record.stages)
    if record.status in get_args(Outcome):
        if not has_decided:
            yield Finding("run.json", f"says {record.status}, and lists no stage that decided")
    elif record.verdict:
        yield Finding("run.json", f"says {record.status}, and has the verdict {record.verdict[-1]!r}")
