"""A provider of the OpenAI fine-tuning protocol, which may be slow, busy, broken or cut off.

The SDK's own retries are off: a call that changes something must not be made twice unseen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import openai
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
_PAGE = 100
_EXCERPT = 300
Answer = TypeVar("Answer")


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

    def files(self) -> Iterator[FileObject]:
        """All that were uploaded for training."""
        return self._all(lambda after: self.client.files.list(purpose=PURPOSE, **_after(after)))

    def jobs(self, metadata: dict[str, str]) -> Iterator[FineTuningJob]:
        """All with these metadata, the newest first, whether or not the provider filters by them."""
        listed = self._all(
            lambda after: self.client.fine_tuning.jobs.list(metadata=metadata, limit=_PAGE, **_after(after))
        )
        return (job for job in listed if metadata.items() <= (job.metadata or {}).items())

    def events(self, job: str) -> Iterator[FineTuningJobEvent]:
        """The newest first."""
        return self._all(
            lambda after: self.client.fine_tuning.jobs.list_events(job, limit=_PAGE, **_after(after))
        )

    def checkpoints(self, job: str) -> Iterator[FineTuningJobCheckpoint]:
        return self._all(
            lambda after: self.client.fine_tuning.jobs.checkpoints.list(job, limit=_PAGE, **_after(after))
        )

    def job(self, job: str) -> FineTuningJob:
        return self.patiently(lambda: self.client.fine_tuning.jobs.retrieve(job))

    def cancel(self, job: str) -> FineTuningJob:
        return self.patiently(lambda: self.client.fine_tuning.jobs.cancel(job))

    def content(self, file: str) -> bytes:
        return self.patiently(lambda: self.client.files.content(file).content)

    def upload(self, path: Path, name: str) -> FileObject:
        """Raises Trouble where nobody knows whether it was."""
        with path.open("rb") as file:
            return self.once(lambda: self.client.files.create(file=(name, file), purpose=PURPOSE))

    def create(self, key: str, **parameters: Any) -> FineTuningJob:
        """Raises Trouble where nobody knows whether it was; `key` tells a second asking to those who look."""
        headers = {"Idempotency-Key": key}
        return self.once(lambda: self.client.fine_tuning.jobs.create(**parameters, extra_headers=headers))

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
        except (openai.APIResponseValidationError, json.JSONDecodeError) as error:
            raise Trouble(f"no answer of the protocol: {error}") from None
        if isinstance(answer, str):
            raise Trouble(f"no answer of the protocol: {answer[:_EXCERPT]!r}")
        return answer

    def said(self, text: str) -> str:
        """The provider's own words, without the key, which some repeat."""
        key = self.settings.api_key
        return text.replace(key.get_secret_value(), "[key]") if key and key.get_secret_value() else text

    def _all(self, page: Callable[[str | None], Any]) -> Iterator[Any]:
        """What all pages list; each page is asked for patiently."""
        after: str | None = None
        while True:
            found = self.patiently(lambda after=after: page(after))  # type: ignore[misc]
            yield from found.data
            if not found.data or not found.has_more:
                return
            after = found.data[-1].id

    def _wait_s(self, state: RetryCallState) -> float:
        trouble = state.outcome.exception() if state.outcome else None
        if isinstance(trouble, Trouble) and trouble.wait_s is not None:
            return trouble.wait_s
        backoff = wait_exponential_jitter(multiplier=self.backoff_s, max=MAX_BACKOFF_S, jitter=self.backoff_s)
        return backoff(state)


def _after(after: str | None) -> dict[str, Any]:
    return {} if after is None else {"after": after}
