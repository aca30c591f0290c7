"""A killed judge goes on without repeating one call that was answered, counted at the endpoint."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.integration.stage import start, until
from tests.openai_endpoint import Endpoint, Reply, serving
from tests.unit.eval.judged_run import NUM_ITEMS, NUM_PROMPTS, JudgedRun, fair
from tunebook_cli.request import Request
from tunebook_cli.stage_process import run_stage
from tunebook_model.resolve import ReadyModel
from tunebook_run.settings import Settings
from tunebook_run.stages import Artifact, Stage

CONCURRENCY = 3
ALL = 2 * NUM_ITEMS + 3 * NUM_PROMPTS


def test_no_answered_call_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, answers = threading.Event(), iter(range(7))

    def reply(body: dict[str, Any]) -> Reply:
        if next(answers, None) is None:
            held.wait(300)
            return Reply(status=0)
        return fair(body)

    with serving(Endpoint(reply)) as endpoint:
        run = JudgedRun(tmp_path, endpoint)
        arms = run.prepare()
        stages = tmp_path / "runs" / "tiny" / "stages"
        stages.mkdir(parents=True)
        places = {"prepare": tmp_path / "data", **{f"answer-{arm}": place for arm, place in arms.items()}}
        for name, place in places.items():
            place.rename(stages / name)
        request = Request(
            stage=Stage.of("tiny", "judge-judge", run.inputs),
            parents={name: f"tiny/stages/{name}" for name in places},
            model=ReadyModel(tmp_path, "tiny", "0", None),
            supporting={},
            spec_dir=tmp_path,
            ray_address=None,
            facts={},
        )
        environment = {
            "TUNEBOOK_STORAGE_URL": str(tmp_path / "runs"),
            "TUNEBOOK_CACHE_DIR": str(tmp_path / "cache"),
            "TUNEBOOK_MODELS__JUDGE__BASE_URL": endpoint.base_url,
            "TUNEBOOK_MODELS__JUDGE__API_KEY": "sk-secret",
            "TUNEBOOK_MODELS__JUDGE__CONCURRENCY": str(CONCURRENCY),
        }
        process = start(request, environment)
        # A worker asks again only when its last answer is kept: all seven answers are.
        until(lambda: endpoint.under_way == CONCURRENCY and endpoint.num_calls == 7 + CONCURRENCY, process)
        process.kill()
        output, _ = process.communicate(timeout=300)
        held.set()
        assert process.returncode == -signal.SIGKILL, output
        assert endpoint.answered.total() == 7

        endpoint.reply = fair
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        run_stage(request, Settings.read())
        assert set(endpoint.answered.values()) == {1}
        assert endpoint.answered.total() == ALL
        assert endpoint.num_calls == ALL + CONCURRENCY
    (path,) = stages.glob("judge-judge-*/artifact.json")
    artifact = Artifact.model_validate_json(path.read_text())
    assert str(artifact.result["summary"]).startswith(f"{ALL} answers of judge-x at 127.0.0.1:")
    assert ", 7 of them by an earlier attempt; " in str(artifact.result["summary"])
    judgements = [json.loads(line) for line in (path.parent / "judgements.jsonl").read_text().splitlines()]
    assert len(judgements) == ALL
    assert all(each["value"] is not None for each in judgements)
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or b"sk-secret" not in file.read_bytes(), file
