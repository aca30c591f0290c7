"""A provider of the OpenAI fine-tuning protocol, which may be slow, busy, broken or cut off.

The SDK's own retries are off: a call that changes something must not be made twice unseen.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import openai
from openai import BaseModel
from openai.pagination import SyncCursorPage
from openai.types import FileObject
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_exponential_jitter

from tunebook_inference.endpoint import BUSY, MAX_BACKOFF_S, MAX_RETRY_AFTER_S, retry_after_s
from tunebook_run.settings import HostedSettings
from tunebook_spec.errors import StageError

MAX_ATTEMPTS = 8
PURPOSE: Literal["fine-tune"] = "fine-tune"
FAILED = ("failed", "cancelled")
"""How a job ends that has made nothing."""
_PAGE = 100
_EXCERPT = 300
_READ: dict[type[BaseModel], tuple[str, ...]] = {
    FineTuningJob: ("id", "status", "model", "training_file"),
    FineTuningJobEvent: ("id", "level", "message"),
}
Answer = TypeVar("Answer")
Told = TypeVar("Told", str, dict[str, Any])


class Trouble(Exception):
    """What another attempt may mend; of a call that changes something, nobody knows whether it did."""

    def __init__(self, detail: str, wait_s: float | None = None) -> None:
        super().__init__(detail)
        self.detail, self.wait_s = detail, wait_s


class Refusal(Exception):
    """The provider's answer is no."""

    def __init__(self, detail: str, status: int, code: str | None, param: str | None) -> None:
        super().__init__(detail)
        self.detail, self.status, self.code, self.param = detail, status, code, param


@dataclass
class Provider:
    """The calls of a job's life, each tried until it is answered.

    Raises, from every method:
        StageError: it answers no more; what is there stays, and the same command goes on from it.
        Refusal: it says no.
    """

    settings: HostedSettings
    backoff_s: float = 1.0
    """Before the second attempt; doubled for each one after it."""

    def __post_init__(self) -> None:
        assert self.settings.base_url is not None, "checked before anything runs"
        self.host = self.settings.base_url.partition("://")[2]
        key = self.settings.api_key
        self.client = openai.OpenAI(
            base_url=self.settings.base_url,
            api_key=key.get_secret_value() if key else "none",
            max_retries=0,
            timeout=self.settings.timeout_s,
        )
        weakref.finalize(self, self.client.close)  # its connections end with it
        self._jobs = self.client.fine_tuning.jobs

    def files(self) -> Iterator[FileObject]:
        """All that were uploaded for training."""
        return self._all(partial(self.client.files.with_raw_response.list, purpose=PURPOSE))

    def jobs(self, metadata: dict[str, str]) -> Iterator[FineTuningJob]:
        """All with these metadata, the newest first, whether or not the provider filters by them."""
        listed = self._all(partial(self._jobs.with_raw_response.list, metadata=metadata, limit=_PAGE))
        return (job for job in listed if metadata.items() <= (job.metadata or {}).items())

    def events(self, job: str) -> Iterator[FineTuningJobEvent]:
        """The newest first."""
        return self._all(partial(self._jobs.with_raw_response.list_events, job, limit=_PAGE))

    def checkpoints(self, job: str) -> Iterator[FineTuningJobCheckpoint]:
        return self._all(partial(self._jobs.checkpoints.with_raw_response.list, job, limit=_PAGE))

    def job(self, job: str) -> FineTuningJob:
        return self.patiently(lambda: self._jobs.retrieve(job))

    def cancel(self, job: str) -> FineTuningJob:
        return self.patiently(lambda: self._jobs.cancel(job))

    def content(self, file: str) -> bytes:
        return self.patiently(lambda: self.client.files.content(file).content)

    def upload(self, path: Path, name: str) -> FileObject:
        """Raises Trouble where nobody knows whether it was."""
        with path.open("rb") as file:
            return self.once(lambda: self.client.files.create(file=(name, file), purpose=PURPOSE))

    def create(self, key: str, **parameters: Any) -> FineTuningJob:
        """Raises Trouble where nobody knows whether it was; `key` tells a second asking to those who look."""
        headers = {"Idempotency-Key": key}
        return self.once(lambda: self._jobs.create(**parameters, extra_headers=headers))

    def patiently(self, call: Callable[[], Answer]) -> Answer:
        """The answer of a call that can be made again whatever became of it, or that looks before it acts."""
        retrying = Retrying(
            retry=retry_if_exception_type(Trouble),
            stop=stop_after_attempt(MAX_ATTEMPTS),
            wait=self._wait_s,
            reraise=True,
        )
        try:
            return retrying(lambda: self.once(call))
        except Trouble as trouble:
            raise StageError(
                f"{self.host} answers no more: {trouble.detail}, after {MAX_ATTEMPTS} attempts; what was"
                " begun there stays, and the same command goes on from it"
            ) from None

    def once(self, call: Callable[[], Answer]) -> Answer:
        try:
            answer = call()
        except openai.APITimeoutError:
            raise Trouble(f"no answer in {self.settings.timeout_s:g} s") from None
        except openai.APIConnectionError as error:
            raise Trouble(f"no connection: {error.__cause__ or error}") from None
        except openai.APIStatusError as error:
            said = self.said(f"HTTP {error.status_code}: {error.message}")
            if (error.status_code in BUSY or error.status_code >= 500) and error.code != "insufficient_quota":
                wait_s = retry_after_s(error.response.headers)
                if wait_s is not None and wait_s > MAX_RETRY_AFTER_S:
                    raise StageError(
                        f"{self.host} asks to wait for {wait_s:.0f} s ({said}); run the same command later"
                    ) from None
                raise Trouble(said, wait_s) from None
            raise Refusal(said, error.status_code, error.code, error.param) from None
        except (openai.APIResponseValidationError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise Trouble(f"no answer of the protocol: {self.said(str(error))}") from None
        if not _is_of_protocol(answer):
            told = answer.to_dict() if isinstance(answer, BaseModel) else answer
            raise Trouble(f"no answer of the protocol: {self.said(repr(told))[:_EXCERPT]}")
        return answer

    def said(self, told: Told) -> Told:
        """A text of the provider, or what holds texts, without the key, which some repeat."""
        key = self.settings.api_key.get_secret_value() if self.settings.api_key else ""
        return _without(key, told) if key else told

    def _all(self, page: Callable[..., Any]) -> Iterator[Any]:
        """What all pages list; each page is asked for patiently."""
        after: dict[str, str] = {}
        while True:
            found = self.patiently(lambda after=after: _parsed(page(**after)))  # type: ignore[misc]
            yield from found.data
            if not found.data or not found.has_more:
                return
            after = {"after": found.data[-1].id}

    def _wait_s(self, state: RetryCallState) -> float:
        trouble = state.outcome.exception() if state.outcome else None
        if isinstance(trouble, Trouble) and trouble.wait_s is not None:
            return trouble.wait_s
        backoff = wait_exponential_jitter(multiplier=self.backoff_s, max=MAX_BACKOFF_S, jitter=self.backoff_s)
        return backoff(state)


def _without(key: str, told: Any) -> Any:
    match told:
        case str():
            return told.replace(key, "[key]")
        case dict():
            return {_without(key, name): _without(key, value) for name, value in told.items()}
        case list():
            return [_without(key, each) for each in told]
    return told


def _parsed(page: Any) -> Any:
    """A raw page of a list; the SDK stumbles over a body that is no object."""
    body = json.loads(page.content)
    return page.parse() if isinstance(body, dict) else body


def _is_of_protocol(answer: Any) -> bool:
    """Whether what is read everywhere is there; the SDK's own models take anything."""
    match answer:
        case bytes():
            return True
        case SyncCursorPage():
            items = getattr(answer, "data", None)
            return isinstance(items, list) and all(map(_is_of_protocol, items))
        case BaseModel():
            names = next((names for kind, names in _READ.items() if isinstance(answer, kind)), ("id",))
            return all(isinstance(getattr(answer, name, None), str) for name in names)
    return False
