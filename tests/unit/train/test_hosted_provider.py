"""A provider that answers what no protocol says, and the question whether it would train."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from tests.fine_tuning_endpoint import BASE, FineTuning, error, serving_fine_tuning
from tests.hosted_training import KEY
from tests.openai_endpoint import Reply
from tunebook_run.settings import HostedSettings
from tunebook_spec.errors import StageError
from tunebook_spec.method import HostedMethod
from tunebook_train.hosted.provider import Provider
from tunebook_train.hosted.refusals import PROBE_FILE, probe

METHOD = HostedMethod(kind="hosted", model=BASE)


@pytest.fixture
def service() -> Iterator[FineTuning]:
    with serving_fine_tuning(FineTuning()) as service:
        yield service


@pytest.fixture
def provider(service: FineTuning, monkeypatch: pytest.MonkeyPatch) -> Provider:
    monkeypatch.setattr("tunebook_train.hosted.provider.MAX_ATTEMPTS", 2)
    return Provider(HostedSettings(base_url=service.base_url, api_key=SecretStr(KEY)), backoff_s=0.001)


BODIES = {
    "object": b"{}",
    "null": b"null",
    "list": b"[]",
    "number": b"7",
    "items": b'{"data": [null], "has_more": false}',
    "ids": b'{"data": [{"object": "event"}], "has_more": false}',
}


@pytest.mark.parametrize("call", ["files", "jobs", "events", "checkpoints", "job", "cancel", "probe"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_what_is_no_answer_of_the_protocol_is_told_as_it_is(
    service: FineTuning, provider: Provider, call: str, body: bytes
) -> None:
    service.trouble = lambda _, count: Reply(body=body)
    calls = {
        "files": lambda: list(provider.files()),
        "jobs": lambda: list(provider.jobs({"tunebook_stage": "x"})),
        "events": lambda: list(provider.events("ftjob-1")),
        "checkpoints": lambda: list(provider.checkpoints("ftjob-1")),
        "job": lambda: provider.job("ftjob-1"),
        "cancel": lambda: provider.cancel("ftjob-1"),
        "probe": lambda: probe(provider, METHOD),
    }
    with pytest.raises(StageError, match=r"answers no more: no answer of the protocol: .*after 2 attempts"):
        calls[call]()


def test_what_is_no_answer_of_the_protocol_is_told_without_the_key(
    service: FineTuning, provider: Provider
) -> None:
    service.trouble = lambda _, count: Reply(body=f'{{"you": ["sent", "{KEY}"]}}'.encode())
    with pytest.raises(StageError, match=r"'you': \['sent', '\[key\]'\]"):
        provider.job("ftjob-1")


@pytest.mark.parametrize(
    "refusal",
    [
        error(400, "You exceeded your billing limit"),
        error(400, "'seed' is unknown", param="seed"),
        error(403, f"No access to {PROBE_FILE}"),
    ],
    ids=["billing", "parameter", "organisation"],
)
def test_a_refusal_for_another_reason_than_the_file_is_told_by_the_probe(
    service: FineTuning, provider: Provider, refusal: Reply
) -> None:
    service.trouble = lambda _, count: refusal
    with pytest.raises(StageError, match=r"refuses the job|cannot create fine-tuning jobs"):
        probe(provider, METHOD)


@pytest.mark.parametrize(
    "refusal",
    [
        error(400, "invalid", param="training_file"),
        error(404, f"No such File object: {PROBE_FILE}", param="id"),
        error(400, "invalid training_file"),
        error(422, f"file {PROBE_FILE} is not there"),
    ],
)
def test_a_refusal_of_the_file_says_that_one_may_train(
    service: FineTuning, provider: Provider, refusal: Reply
) -> None:
    service.trouble = lambda _, count: refusal
    probe(provider, METHOD)


@pytest.mark.parametrize(("state", "is_told"), [("running", True), ("failed", False)])
def test_a_job_of_the_probe_that_cannot_be_cancelled_is_told_unless_it_has_ended(
    service: FineTuning, provider: Provider, state: str, is_told: bool
) -> None:
    """Of a provider that looks at the file only once the job has begun."""
    service.files[PROBE_FILE], service.states = {"id": PROBE_FILE}, (state,)
    service.trouble = lambda call, _: error(400, "No") if "cancel" in call else None
    if not is_told:
        return probe(provider, METHOD)
    with pytest.raises(StageError, match=r"took job ftjob-0001, on a file .*HTTP 400: .*end that job there"):
        probe(provider, METHOD)
