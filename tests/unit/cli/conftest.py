from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.unit.eval.answers_on_disk import asked, general, leave
from tunebook_eval.evaluate import evaluate
from tunebook_eval.inputs import EvaluateInputs
from tunebook_run.record import RunRecord, StageRecord, claim_number, save
from tunebook_run.store import Store

EVALUATED = "medical/stages/evaluate-0123456789ab"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Two runs, of which the second was stopped before it had measured anything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNEBOOK_STORAGE_URL", str(tmp_path / "runs"))
    store = Store(str(tmp_path / "runs"), tmp_path / "cache")
    out = store.folder(EVALUATED)
    out.mkdir(parents=True)
    task = [asked(n, f"AKI: meaning {n}\nMRI: imaging" if n < 90 else "AKI: no") for n in range(100)]
    arms = {
        "base": [*(asked(n, "AKI: no") for n in range(100)), *(general(n, "yes") for n in range(100))],
        "tuned": [*task, *(general(n, "yes" if n else "no") for n in range(100))],
        "baselines": [asked(n, "MRI: imaging", rule="majority") for n in range(100)],
    }
    inputs = EvaluateInputs.model_validate(
        {"metrics": {"glossary": ("line_match",), "general": ("contains",)}}
    )
    folders = {arm: leave(tmp_path, arm, of_arm) for arm, of_arm in arms.items()}
    evaluate(inputs, arms=folders, judges={}, out=out)
    for stages in ((StageRecord(name="evaluate", key=EVALUATED, digest="0", skipped=False, seconds=1),), ()):
        record = RunRecord(
            scenario="medical",
            number=claim_number(store, "medical"),
            profile=None,
            status="pass",
            started_at=datetime.now(UTC),
            spec={},
            seed=0,
            git_commit=None,
            versions={},
            stages=stages,
        )
        save(store, record)
    return store
