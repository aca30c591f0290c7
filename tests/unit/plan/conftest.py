from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest

from tests.unit.cli.test_data_commands import SPEC, write
from tests.unit.eval.answers_on_disk import asked, general, leave
from tunebook_data.inputs import PrepareInputs
from tunebook_eval.evaluate import evaluate
from tunebook_eval.inputs import EvaluateInputs
from tunebook_run.record import RunRecord, StageRecord, claim_number, save
from tunebook_run.stages import Stage, commit
from tunebook_run.store import Store
from tunebook_spec import LoadedSpec, load

MORE = """\
    general: {{suite: general, metrics: [contains]}}
  gates:
"""
Measure = Callable[[str], RunRecord]


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedSpec:
    """A spec, its rows, and the settings of a user who has run nothing yet."""
    text = SPEC.replace("  gates:\n", MORE).format(model="absent")
    (tmp_path / "colours.yaml").write_text(text)
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNEBOOK_CACHE_DIR", str(tmp_path / "cache"))
    return load(tmp_path / "colours.yaml")


@pytest.fixture
def store(loaded: LoadedSpec, tmp_path: Path) -> Store:
    return Store("runs", tmp_path / "cache")


@pytest.fixture
def measure_run(loaded: LoadedSpec, store: Store, tmp_path: Path) -> Measure:
    """Leaves a run of the spec whose tuned model answers as it is told to, and few-shot 60 of 100."""

    def run(tuned_right: str) -> RunRecord:
        number = claim_number(store, "colours")
        task = {
            "base": [colour(n, "no") for n in range(100)],
            "few_shot": [colour(n, "blue" if n % 10 < 6 else "no", 250) for n in range(100)],
            "tuned": [colour(n, "blue" if eval(tuned_right, {"n": n}) else "no") for n in range(100)],
        }
        suite = {
            "base": [general(n, "yes") for n in range(100)],
            "few_shot": [],
            "tuned": [general(n, "yes" if n % 10 else "no") for n in range(100)],
        }
        rules = [
            colour(n, "blue" if n % 5 == 0 else "no").model_copy(update={"rule": "copy"}) for n in range(100)
        ]
        place = tmp_path / f"answers-{number}"
        place.mkdir()
        folders = {arm: leave(place, arm, [*task[arm], *suite[arm]]) for arm in task}
        folders["baselines"] = leave(place, "baselines", rules)
        stages = {
            name: Stage.of("colours", name, PrepareInputs.of(loaded.spec), contents={"n": str(number)})
            for name in ("train", "merge", "evaluate")
        }
        for stage in stages.values():
            store.folder(stage.key).mkdir(parents=True)
        metrics = b"".join(orjson.dumps({"step": n, "seconds": n * 10.0}) + b"\n" for n in (1, 2))
        (store.folder(stages["train"].key) / "metrics.jsonl").write_bytes(metrics)
        inputs = EvaluateInputs.model_validate(
            {"metrics": {"colour": ("exact_match",), "general": ("contains",)}}
        )
        evaluate(inputs, arms=folders, judges={}, out=store.folder(stages["evaluate"].key))
        for name, stage in stages.items():
            commit(store, stage, {}, {"train": 30.0, "merge": 10.0}.get(name, 1.0))
        record = RunRecord(
            scenario="colours",
            number=number,
            profile=None,
            status="pass",
            started_at=datetime.now(UTC),
            finished_at=datetime.now(UTC) + timedelta(minutes=7),
            spec=loaded.spec.model_dump(mode="json"),
            seed=0,
            git_commit=None,
            versions={},
            stages=tuple(
                StageRecord(name=name, key=stage.key, digest=stage.digest, skipped=False, seconds=1)
                for name, stage in stages.items()
            ),
        )
        save(store, record)
        return record

    return run


def colour(number: int, text: str, prompt_tokens: int = 50):  # type: ignore[no-untyped-def]
    more = {"set": "colour", "reference": "blue", "stratum": None, "group": str(number)}
    return asked(number, text, prompt_tokens=prompt_tokens, **more)
