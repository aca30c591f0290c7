"""A killed augmentation goes on without repeating one call that was answered, counted at the endpoint."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.stage import start, until
from tests.openai_endpoint import Endpoint, Reply, serving
from tunebook_cli.request import Request
from tunebook_cli.stage_process import run_stage
from tunebook_data.inputs import PrepareInputs
from tunebook_model.digests import model_digest
from tunebook_model.resolve import ReadyModel
from tunebook_run.settings import Settings
from tunebook_run.stages import Artifact, Stage
from tunebook_spec.base_model import EndpointModel
from tunebook_spec.data import Data
from tunebook_spec.errors import StageError

CONCURRENCY = 3


def write_rows(path: Path) -> None:
    chats = [(f"What colour is thing {n}?", f"Thing number {n} is blue.") for n in range(40)]
    rows = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}
        for asked, said in chats
    ]
    path.write_text("\n".join(map(json.dumps, rows)))


def variations(body: dict[str, Any]) -> str:
    number = re.findall(r"thing (\d+)", body["messages"][1]["content"])[0]
    made = [
        [
            {
                "user": " ".join(f"q{number}{each}{c}" for c in "abcdef"),
                "assistant": f"It is surely {number}{each}.",
            }
        ]
        for each in "xy"
    ]
    return json.dumps({"variations": made})


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with serving(Endpoint(lambda body: Reply(variations(body)))) as endpoint:
        yield endpoint


@pytest.fixture
def request_(tmp_path: Path, tiny_llama: Path) -> Request:
    """What a run tells the process of `prepare`."""
    write_rows(tmp_path / "rows.jsonl")
    source = {"kind": "file", "path": "rows.jsonl", "task": "colour"}
    augment = {"teacher": "teacher", "variations": 2, "rows": 30}
    inputs = PrepareInputs(
        data=Data.model_validate({"sources": [source], "augment": augment}),
        seed=0,
        chat_template_kwargs={},
        suites=(),
        questions=(),
        texts=(),
        models={"teacher": EndpointModel(kind="endpoint", model="gpt-x")},
    )
    return Request(
        stage=Stage.of("tiny", "prepare", inputs),
        parents={},
        model=ReadyModel(tiny_llama, "tiny", model_digest(tiny_llama, tmp_path), None),
        supporting={},
        spec_dir=tmp_path,
        ray_address=None,
        facts={},
    )


Environment = dict[str, str]


@pytest.fixture
def environment(tmp_path: Path, endpoint: Endpoint) -> Environment:
    return {
        "TUNEBOOK_STORAGE_URL": str(tmp_path / "runs"),
        "TUNEBOOK_CACHE_DIR": str(tmp_path / "cache"),
        "TUNEBOOK_MODELS__TEACHER__BASE_URL": endpoint.base_url,
        "TUNEBOOK_MODELS__TEACHER__API_KEY": "sk-secret",
        "TUNEBOOK_MODELS__TEACHER__CONCURRENCY": str(CONCURRENCY),
    }


def run_here(request: Request, environment: Environment, **settings: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**environment, **settings}.items():
            patch.setenv(name, value)
        run_stage(request, Settings.read())


def artifact(storage: Path) -> Artifact:
    (path,) = storage.glob("tiny/stages/prepare-*/artifact.json")
    return Artifact.model_validate_json(path.read_text())


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT], ids=["SIGKILL", "SIGINT"])
def test_no_answered_call_is_repeated(
    request_: Request, environment: Environment, endpoint: Endpoint, tmp_path: Path, kill: signal.Signals
) -> None:
    """Killed, it loses what is under way, which was not answered; interrupted, it waits for that."""
    waits = kill == signal.SIGINT
    held, answers = threading.Event(), iter(range(7))

    def reply(body: dict[str, Any]) -> Reply:
        if next(answers, None) is None:
            held.wait(300)
            return Reply(variations(body)) if waits else Reply(status=0)
        return Reply(variations(body))

    endpoint.reply = reply
    process = start(request_, environment)
    # A worker asks again only when its last answer is kept: all seven answers are.
    until(lambda: endpoint.under_way == CONCURRENCY and endpoint.num_calls == 7 + CONCURRENCY, process)
    process.send_signal(kill)
    if waits:
        time.sleep(0.5)
        held.set()
    output, _ = process.communicate(timeout=300)
    held.set()
    assert process.returncode == (130 if waits else -signal.SIGKILL), output
    paid = 7 + (CONCURRENCY if waits else 0)
    assert endpoint.answered.total() == paid

    endpoint.reply = lambda body: Reply(variations(body))
    run_here(request_, environment)
    assert set(endpoint.answered.values()) == {1}
    assert len(endpoint.answered) == 30
    assert endpoint.num_calls == 30 + (0 if waits else CONCURRENCY)
    assert f"{paid} answers not asked for again" in str(artifact(tmp_path / "runs").result["summary"])

    run_here(request_, environment, TUNEBOOK_STORAGE_URL=str(tmp_path / "unkilled"))
    assert artifact(tmp_path / "runs").files == artifact(tmp_path / "unkilled").files
    assert "sk-secret" not in output
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"sk-secret" not in path.read_bytes(), path


def test_a_spent_budget_stops_cleanly_and_a_bigger_one_goes_on(
    request_: Request, environment: Environment, endpoint: Endpoint
) -> None:
    budget = "TUNEBOOK_MODELS__TEACHER__BUDGET_TOKENS"
    told = rf"the budget of teacher .* is spent: \d+ tokens of {budget}=2000, for \d+ answers"
    with pytest.raises(StageError, match=told):
        run_here(request_, environment, **{budget: "2000"})
    before = endpoint.num_calls
    assert 0 < before < 30
    with pytest.raises(StageError, match=told):
        run_here(request_, environment, **{budget: "2000"})
    assert endpoint.num_calls == before, "a spent budget is spent after a restart too"
    run_here(request_, environment, **{budget: "1000000"})
    assert endpoint.num_calls == 30
    assert set(endpoint.calls.values()) == {1}


TROUBLES = {
    0: ("HTTP 429", Reply("slow down", status=429, headers={"Retry-After": "0.2"})),
    1: ("HTTP 500", Reply("oops", status=500)),
    2: ("timeout", Reply(seconds=4.0)),
    3: ("garbage", Reply(body=b"<html>Bad gateway</html>")),
    4: ("connection", Reply(body=b'{"choices": [{"message"', told_length=5000)),
    5: ("repaired", Reply('{"variations": [[{"user": "What colo')),
}


def test_an_endpoint_that_misbehaves_is_handled_counted_and_reported(
    request_: Request, environment: Environment, endpoint: Endpoint, tmp_path: Path
) -> None:
    """Each row meets one trouble, by its number; every second one of the last kind stays broken."""
    seen: Counter[int] = Counter()
    expected: Counter[str] = Counter()

    def reply(body: dict[str, Any]) -> Reply:
        number = int(re.findall(r"thing (\d+)", body["messages"][1]["content"])[0])
        with endpoint.lock:
            seen[number] += 1
            is_new = seen[number] == 1
        kind, trouble = TROUBLES[number % 6]
        stays = kind == "repaired" and number % 12 == 5
        if is_new:
            expected["failed" if stays else kind] += 1
        return trouble if is_new or stays else Reply(variations(body))

    endpoint.reply = reply
    model = "TUNEBOOK_MODELS__TEACHER__"
    settings = {f"{model}CONCURRENCY": "10", f"{model}TIMEOUT_S": "2"}
    run_here(request_, environment, **settings)
    counts = artifact(tmp_path / "runs").result["augment"]
    assert isinstance(counts, dict)
    troubles = {kind: num for kind, num in expected.items() if kind not in ("repaired", "failed")}
    assert len(troubles) == 5
    assert counts["troubles"] == troubles
    assert (counts["repaired"], counts["failed"]) == (expected["repaired"], expected["failed"])
    assert expected["failed"] > 0
    assert expected["repaired"] > 0
    assert (counts["asked"], counts["parsed"]) == (30, 30 - expected["failed"])
    assert counts["kept"] == counts["made"] == 2 * counts["parsed"]
    summary = str(artifact(tmp_path / "runs").result["summary"])
    for told in (*(f"{num} x {kind}" for kind, num in troubles.items()), f"{expected['failed']} failed"):
        assert told in summary
    (failures,) = (tmp_path / "runs").glob("tiny/stages/prepare-*/generated_failures.jsonl")
    assert len(failures.read_text().splitlines()) == expected["failed"]
