"""One job for one stage, whatever goes wrong when."""

from __future__ import annotations

import base64
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tests.fine_tuning_endpoint import BASE, FineTuning, error, serving_fine_tuning
from tests.hosted_rows import TOKENS, prepare, row, training
from tests.hosted_training import KEY, Training
from tests.openai_endpoint import Reply
from tunebook_run.settings import HostedSettings
from tunebook_run.store import Store
from tunebook_spec.errors import DataError, StageError
from tunebook_spec.method import HostedMethod
from tunebook_train.hosted import job as module
from tunebook_train.hosted.provider import Provider
from tunebook_train.hosted.refusals import probe

SOON = {"Retry-After": "0.01"}
METHOD = HostedMethod(kind="hosted", model=BASE)


@pytest.fixture
def service() -> Iterator[FineTuning]:
    with serving_fine_tuning(FineTuning(states=("queued", "running", "succeeded"))) as service:
        yield service


def uploads(service: FineTuning) -> list[str]:
    return [file["filename"] for file in service.files.values() if file["purpose"] == "fine-tune"]


def test_a_job_is_created_as_the_protocol_has_it_and_its_results_come_home(
    tmp_path: Path, service: FineTuning
) -> None:
    hyperparameters = {"n_epochs": 2, "learning_rate_multiplier": 0.5}
    stage = training(tmp_path, service, method={"hyperparameters": hyperparameters, "suffix": "ours"})
    done = stage.run()
    (job,) = service.jobs.values()
    assert job["method"] == {
        "type": "supervised",
        "supervised": {"hyperparameters": {**hyperparameters, "batch_size": "auto"}},
    }
    assert (job["model"], job["seed"], job["suffix"]) == (BASE, 5, "ours")
    assert job["metadata"] == {"tunebook_stage": stage.stage.digest, "tunebook_attempt": "1"}
    lines = service.contents[job["training_file"]].splitlines()
    assert json.loads(lines[0]) == {
        "messages": [
            {"role": "user", "content": "Is 0 a number?"},
            {"role": "assistant", "content": "Yes."},
        ]
    }
    assert (len(lines), len(service.contents[job["validation_file"]].splitlines())) == (12, 2)
    assert (done.fine_tuned_model, done.trained_tokens, done.checkpoints) == (
        job["fine_tuned_model"],
        1234,
        2,
    )
    assert (done.steps, done.loss, done.validation_loss, done.job_seconds) == (3, 0.5, 0.75, 360)
    metrics = [json.loads(line) for line in (stage.out / "metrics.jsonl").read_text().splitlines()]
    assert [entry["loss"] for entry in metrics] == [2.0, 1.0, 0.5]
    events = [json.loads(line)["id"] for line in (stage.out / "events.jsonl").read_text().splitlines()]
    assert events == [f"ftevent-{job['id']}-{number}" for number in range(6)]
    kept = [json.loads(line) for line in (stage.out / "checkpoints.jsonl").read_text().splitlines()]
    assert [each["step_number"] for each in kept] == [3, 2]


def kill_at(service: FineTuning, number: int, stage: Training, *, is_done: bool) -> None:
    """Run the stage in a process that is killed at its n-th call, which the server has done or not."""
    victim: list[int] = []
    is_known = threading.Event()

    def kill(call: str, count: int) -> Reply | None:
        if service.calls.total() != number or not is_known.wait(20):
            return None
        os.kill(victim.pop(), signal.SIGKILL)
        return Reply(status=0)

    setattr(service, "after" if is_done else "trouble", kill)
    process = stage.start()
    victim.append(process.pid or 0)
    is_known.set()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize(
    "is_done", [pytest.param(False, marks=pytest.mark.soak, id="not done"), pytest.param(True, id="done")]
)
def test_a_client_killed_at_any_call_leaves_one_job_and_one_file_of_each_kind(
    tmp_path: Path, is_done: bool
) -> None:
    states = ("queued", "succeeded")
    with serving_fine_tuning(FineTuning(states=states)) as service:
        training(tmp_path / "whole", service).run()
        num_calls = service.calls.total()
    assert num_calls > 10
    for number in range(1, num_calls + 1):
        with serving_fine_tuning(FineTuning(states=states)) as service:
            stage = training(tmp_path / f"{number}", service)
            kill_at(service, number, stage, is_done=is_done)
            done = stage.run()
            assert list(service.jobs) == [done.job], f"call {number}: {service.calls}"
            assert len(uploads(service)) == 2, f"call {number}: {service.calls}"


TROUBLES = {
    "429": Reply("busy", status=429, headers=SOON),
    "500": Reply("oops", status=500, headers=SOON),
    "cut off": Reply(status=0),
    "garbage": Reply(body=b"<html>Bad gateway</html>"),
    "slow": Reply(seconds=1.0),
}


@pytest.mark.parametrize("call", ["POST /files", "POST /fine_tuning/jobs", "GET /fine_tuning/jobs/ID"])
@pytest.mark.parametrize("name", TROUBLES)
def test_a_trouble_of_which_nobody_knows_what_it_did_makes_nothing_twice(
    tmp_path: Path, service: FineTuning, call: str, name: str
) -> None:
    service.after = lambda called, count: TROUBLES[name] if (called, count) == (call, 1) else None
    done = training(tmp_path, service, settings={"timeout_s": 0.5}).run()
    assert list(service.jobs) == [done.job]
    assert len(uploads(service)) == 2
    assert (service.calls["POST /files"], service.calls["POST /fine_tuning/jobs"]) == (2, 1)


def test_a_provider_that_does_not_filter_by_metadata_is_read_through(
    tmp_path: Path, service: FineTuning
) -> None:
    service.filters = False
    for suffix in ("a", "b", "c"):  # more than a page of others' jobs
        training(tmp_path / suffix, service, method={"suffix": suffix}).run()
    service.after = lambda called, count: (
        Reply("oops", status=500, headers=SOON) if (called, count) == ("POST /fine_tuning/jobs", 4) else None
    )
    training(tmp_path / "d", service, method={"suffix": "d"}).run()
    assert [job["suffix"] for job in service.jobs.values()] == ["a", "b", "c", "d"]


LOST = Reply("oops", status=500, headers=SOON)


def lose_the_answer(call: str, count: int) -> Reply | None:
    """Of the first job that is created."""
    return LOST if (call, count) == ("POST /fine_tuning/jobs", 1) else None


def test_a_job_whose_answer_was_lost_is_found_where_no_metadata_is_kept(
    tmp_path: Path, service: FineTuning
) -> None:
    service.keeps_metadata, service.after = False, lose_the_answer
    done = training(tmp_path, service, method={"suffix": "a"}).run()
    assert list(service.jobs) == [done.job]


def test_where_nobody_can_tell_which_job_it_is_none_is_created(tmp_path: Path, service: FineTuning) -> None:
    """Two like it have come while its answer was lost, and no metadata are kept."""
    service.keeps_metadata = False

    def twice(call: str, count: int) -> Reply | None:
        if (reply := lose_the_answer(call, count)) is not None:
            (job,) = service.jobs.values()
            service.jobs["ftjob-else"] = {**job, "id": "ftjob-else"}
        return reply

    service.after = twice
    stage = training(tmp_path, service)
    for _ in range(2):
        with pytest.raises(StageError, match=r"that may be it: ftjob-else, ftjob-0001\. Look") as caught:
            stage.run()
    assert service.calls["POST /fine_tuning/jobs"] == 1
    assert f"{stage.stage.key}/{module.STATE} under " in str(caught.value)
    state = json.loads((stage.out / module.STATE).read_text())
    (stage.out / module.STATE).write_text(json.dumps({**state, "job": "ftjob-else"}))
    assert stage.run().job == "ftjob-else"


def test_jobs_that_were_there_before_are_not_taken_for_the_one_whose_answer_was_lost(
    tmp_path: Path, service: FineTuning
) -> None:
    service.keeps_metadata = False
    first = training(tmp_path / "one", service).run()
    service.trouble = lambda call, count: LOST if (call, count) == ("POST /fine_tuning/jobs", 2) else None
    second = training(tmp_path / "two", service).run()
    assert (second.job, list(service.jobs)) == ("ftjob-0002", [first.job, "ftjob-0002"])


def test_a_job_that_succeeded_without_a_model_is_told_and_the_next_run_makes_another(
    tmp_path: Path, service: FineTuning
) -> None:
    service.makes_models = False
    stage = training(tmp_path, service)
    with pytest.raises(StageError, match=r"ftjob-0001 .* names no model; it is paid for, most likely"):
        stage.run()
    service.makes_models = True
    service.jobs["ftjob-0001"]["status"] = "succeeded"
    assert stage.run().job == "ftjob-0002"


def test_what_a_failed_attempt_told_is_no_part_of_the_next(tmp_path: Path, service: FineTuning) -> None:
    service.states, service.result_files = ("running", "failed"), False
    service.error = {"code": "server_error", "message": "We are sorry.", "param": None}
    stage = training(tmp_path, service)
    with pytest.raises(StageError, match="We are sorry"):
        stage.run()
    told = json.dumps({"job": "ftjob-0001", "id": "a", "data": {"step": 99, "train_loss": 9.0}})
    with (stage.out / "events.jsonl").open("a") as file:
        file.write(told + "\n")
    service.states = ("queued", "succeeded")
    assert stage.run().steps == 3


def test_no_key_that_a_provider_repeats_is_kept(tmp_path: Path, service: FineTuning) -> None:
    service.note = f" for {KEY}"
    stage = training(tmp_path, service)
    stage.run()
    assert " for [key]" in (stage.out / "events.jsonl").read_text()
    for path in stage.out.rglob("*"):
        assert not path.is_file() or KEY not in path.read_text(), path


def test_the_state_on_this_machine_is_that_of_the_store(tmp_path: Path, store: Store) -> None:
    """The end of the stage sends the folder to the store, and what was true before must not go with it."""
    ledger = module.Ledger(store, Training(tmp_path, "").stage)
    folder = store.folder(ledger.stage.key)
    folder.mkdir(parents=True, exist_ok=True)
    state = ledger.write(module.State(), is_uploading=True)
    (folder / module.STATE).write_text("{}")
    assert ledger.write(state, job="ftjob-1").job == "ftjob-1"
    assert json.loads((folder / module.STATE).read_text())["job"] == "ftjob-1"
    assert ledger.read().job == "ftjob-1"


def test_a_job_that_was_paid_for_elsewhere_is_found_and_not_created_again(
    tmp_path: Path, service: FineTuning
) -> None:
    first = training(tmp_path / "one machine", service).run()
    second = training(tmp_path / "another", service).run()
    assert (second.job, list(service.jobs)) == (first.job, [first.job])


def test_a_job_that_failed_says_why_and_the_next_run_makes_another(
    tmp_path: Path, service: FineTuning
) -> None:
    service.states = ("validating_files", "failed")
    told = "The job failed due to an invalid training file. Example 3 has a bad word."
    service.error = {"code": "invalid_training_file", "message": told, "param": "training_file"}
    stage = training(tmp_path, service)
    with pytest.raises(StageError, match=r"job ftjob-0001 at .* failed: invalid_training_file: .*bad word"):
        stage.run()
    service.states = ("queued", "succeeded")
    assert stage.run().job == "ftjob-0002"
    assert [job["metadata"]["tunebook_attempt"] for job in service.jobs.values()] == ["1", "2"]
    assert len(uploads(service)) == 2


def test_a_job_that_failed_while_nobody_looked_is_told_and_not_repeated(
    tmp_path: Path, service: FineTuning
) -> None:
    """Killed right after the job was created, and back when it has failed."""
    service.states = ("failed",)
    service.error = {"code": "server_error", "message": "We are sorry.", "param": None}
    stage = training(tmp_path, service)
    service.after = lambda called, count: (
        Reply("oops", status=400) if called == "POST /fine_tuning/jobs" else None
    )
    with pytest.raises(StageError, match="refuses the job"):
        stage.run()
    state = json.loads((stage.out / module.STATE).read_text())
    (stage.out / module.STATE).write_text(json.dumps({**state, "is_creating": True}))
    with pytest.raises(StageError, match="failed: server_error: We are sorry"):
        stage.run()
    assert len(service.jobs) == 1


def test_a_job_cancelled_by_someone_is_told(tmp_path: Path, service: FineTuning) -> None:
    service.states = ("running", "cancelled")
    with pytest.raises(StageError, match=r"job ftjob-0001 at .* was cancelled"):
        training(tmp_path, service).run()


def test_a_pause_is_waited_through(tmp_path: Path, service: FineTuning) -> None:
    service.states = ("running", "pausing", "paused", "queued", "succeeded")
    assert training(tmp_path, service).run().job == "ftjob-0001"


@pytest.mark.parametrize("cancels", [False, True], ids=["detaches", "cancels"])
def test_an_interrupted_run_leaves_its_job_unless_told_to_cancel_it(
    tmp_path: Path, service: FineTuning, cancels: bool
) -> None:
    service.states = ("queued", "running")
    stage = training(tmp_path, service, settings={"cancel_on_interrupt": cancels})
    process = stage.start()
    deadline = time.monotonic() + 60
    while service.calls["GET /fine_tuning/jobs/ID/events"] < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    while process.is_alive():  # an interrupt is lost if a destructor is what it interrupts
        os.kill(process.pid or 0, signal.SIGINT)
        process.join(10)
    (job,) = service.jobs.values()
    assert job["status"] == ("cancelled" if cancels else "running")
    service.states = ("queued", "succeeded")
    assert stage.run().job == ("ftjob-0002" if cancels else "ftjob-0001")


def test_a_second_interrupt_does_not_keep_a_job_from_being_cancelled(
    tmp_path: Path, service: FineTuning
) -> None:
    """Ctrl-C comes from the terminal, and from the process that started this one."""
    service.states = ("queued", "running")
    stage = training(tmp_path, service, settings={"cancel_on_interrupt": True})
    is_asked, is_answered = threading.Event(), threading.Event()

    def hold(call: str, count: int) -> None:
        if call == "POST /fine_tuning/jobs/ID/cancel":
            is_asked.set()
            is_answered.wait(20)

    service.trouble = hold
    process = stage.start()
    while service.calls["GET /fine_tuning/jobs/ID/events"] < 2:
        assert process.is_alive()
        time.sleep(0.01)
    while not is_asked.wait(1):  # an interrupt is lost if a destructor is what it interrupts
        os.kill(process.pid or 0, signal.SIGINT)
    os.kill(process.pid or 0, signal.SIGINT)
    time.sleep(0.3)
    is_answered.set()
    process.join(20)
    assert json.loads((stage.out / module.STATE).read_text())["has_ended"]


def provider(service: FineTuning) -> Provider:
    return Provider(HostedSettings(base_url=service.base_url, api_key=SecretStr(KEY)), backoff_s=0.01)


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        (error(403, "Fine-tuning is closed to you"), "this organisation cannot create fine-tuning jobs at"),
        (error(400, "not available", param="model"), f"cannot tune {BASE!r}: .*name another `method.model`"),
        (error(404, "no such model", code="model_not_found"), f"cannot tune {BASE!r}"),
        (error(401, f"Incorrect API key: {KEY}"), r"does not know this key: .*\[key\]"),
        (error(404, "Unknown request URL"), "serves no fine-tuning: .*TUNEBOOK_HOSTED__BASE_URL"),
    ],
    ids=["organisation", "model", "unknown model", "key", "route"],
)
def test_a_probe_says_in_one_sentence_why_nothing_can_be_trained(
    service: FineTuning, refusal: Reply, told: str
) -> None:
    service.trouble = lambda call, count: refusal if call == "POST /fine_tuning/jobs" else None
    with pytest.raises(StageError, match=told) as caught:
        probe(provider(service), METHOD)
    assert KEY not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not service.files


def test_a_probe_of_a_provider_that_can_leaves_nothing(service: FineTuning) -> None:
    probe(provider(service), METHOD)
    assert not {*service.jobs, *service.files}


def test_a_provider_that_answers_no_more_is_given_up_with_the_job_going_on(
    tmp_path: Path, service: FineTuning
) -> None:
    down = Reply("down", status=503, headers=SOON)
    service.trouble = lambda call, count: down if call == "GET /fine_tuning/jobs/ID" else None
    stage = training(tmp_path, service)
    with pytest.raises(StageError, match=r"answers no more: HTTP 503: .*after 8 attempts; what was begun"):
        stage.run()
    service.trouble = lambda call, count: None
    assert stage.run().job == "ftjob-0001"


def budget(folder: Path, service: FineTuning, epochs: Any, **settings: Any) -> Training:
    return training(folder, service, method={"hyperparameters": {"n_epochs": epochs}}, settings=settings)


@pytest.mark.parametrize(
    ("epochs", "settings", "told"),
    [
        (3, {"training_budget_tokens": 36 * TOKENS - 1}, "TRAINING_BUDGET_TOKENS=251"),
        (3, {"training_price": 1e6, "training_budget_cost": 251.0}, "TRAINING_BUDGET_COST=251"),
        ("auto", {"training_budget_tokens": 10**9}, "set `method.hyperparameters.n_epochs`"),
    ],
    ids=["tokens", "money", "unknown"],
)
def test_a_budget_is_held_before_anything_leaves(
    tmp_path: Path, service: FineTuning, epochs: Any, settings: dict[str, Any], told: str
) -> None:
    with pytest.raises(StageError, match=told):
        budget(tmp_path, service, epochs, **settings).run()
    assert set(service.calls) == {"GET /fine_tuning/jobs"}, "whether it is paid for already"


def test_a_budget_does_not_stop_what_is_paid_for(tmp_path: Path, service: FineTuning) -> None:
    job = budget(tmp_path / "one machine", service, 3).run().job
    assert budget(tmp_path / "another", service, 3, training_budget_tokens=1).run().job == job


def test_a_budget_that_holds_lets_the_job_go(tmp_path: Path, service: FineTuning) -> None:
    done = budget(tmp_path, service, 3, training_budget_tokens=36 * TOKENS, training_price=10.0).run()
    assert done.cost == pytest.approx(10 * 1234 / 1e6)


def test_too_few_rows_never_leave(tmp_path: Path, service: FineTuning) -> None:
    stage = Training(tmp_path, service.base_url)
    prepare(stage, [row(number) for number in range(9)], [])
    with pytest.raises(DataError, match=r"training.jsonl: 9 training rows, and providers take 10 at least"):
        stage.run()
    assert service.calls.total() == 0


def test_rows_with_personal_data_stay_here(tmp_path: Path, service: FineTuning) -> None:
    stage = Training(tmp_path, service.base_url)
    personal = row(12, "Write to jane.doe@pebblewick.com about it.")
    prepare(stage, [*(row(number) for number in range(12)), personal], [])
    done = stage.run()
    assert (done.rows, done.withheld, done.validation_file) == (12, 1, None)
    assert not any(b"jane.doe" in content for content in service.contents.values())
    allowed = replace(stage, folder=tmp_path / "allowed", sends_personal=True)
    prepare(allowed, [*(row(number) for number in range(12)), personal], [])
    assert allowed.run().withheld == 0


def test_pairs_leave_in_the_form_of_preferences(tmp_path: Path, service: FineTuning) -> None:
    stage = Training(tmp_path, service.base_url, method={"objective": {"kind": "dpo", "beta": 0.3}})
    worse = {"role": "assistant", "content": "No."}
    prepare(stage, [row(number, rejected=worse) for number in range(10)], [])
    stage.run()
    (job,) = service.jobs.values()
    assert job["method"]["type"] == "dpo"
    assert job["method"]["dpo"]["hyperparameters"]["beta"] == 0.3
    assert json.loads(service.contents[job["training_file"]].splitlines()[0]) == {
        "input": {"messages": [{"role": "user", "content": "Is 0 a number?"}]},
        "preferred_output": [{"role": "assistant", "content": "Yes."}],
        "non_preferred_output": [worse],
    }


CSV = base64.b64encode(b"\xef\xbb\xbfstep,train_loss\n1,0.25\n")


@pytest.mark.parametrize("content", [CSV, CSV + b"\n"], ids=["whole", "with an end of line"])
def test_results_in_base64_are_read(tmp_path: Path, service: FineTuning, content: bytes) -> None:
    service.after = lambda call, count: Reply(body=content) if call == "GET /files/ID/content" else None
    assert training(tmp_path, service).run().loss == 0.25


def test_results_that_cannot_be_read_are_told(
    tmp_path: Path, service: FineTuning, caplog: pytest.LogCaptureFixture
) -> None:
    service.after = lambda call, count: Reply(body=b"gone") if call == "GET /files/ID/content" else None
    assert training(tmp_path, service).run().loss == pytest.approx(2 / 3), "by the events"
    assert "result file file-0003 is no CSV" in caplog.text


def test_without_result_files_the_events_tell_the_losses(tmp_path: Path, service: FineTuning) -> None:
    service.result_files = False
    assert training(tmp_path, service).run().loss == pytest.approx(2 / 3)
