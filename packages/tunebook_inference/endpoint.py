"""Chats answered by an endpoint of the OpenAI protocol, which may be slow, busy, broken or cut off.

The SDK's own retries are off, so that every call is seen and counted here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import openai
from pydantic import BaseModel, Field, SecretStr, ValidationError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_exponential_jitter

from tunebook_inference.generator import ChatRequest, Completion, FinishReason, OnDone
from tunebook_spec.errors import StageError

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 7
MAX_BACKOFF_S = 60.0
MAX_RETRY_AFTER_S = 600.0
"""An endpoint that asks for a longer pause ends the work."""
GIVE_UP_AFTER = 10
"""So many requests in a row, each tried MAX_ATTEMPTS times in vain, end the work."""
INTERRUPT_S = 10.0
"""How long an interrupted caller waits for what is under way, since it is paid for."""
_WORTH_SAYING_S = 5.0
_EXCERPT_BYTES = 300
_BUSY = {408, 409, 425, 429}
_REFUSES_ALL = {401, 402, 403, 404, 405}


class _Trouble(Exception):
    """What another attempt may mend."""

    def __init__(self, kind: str, detail: str, retry_after_s: float | None = None) -> None:
        super().__init__(kind, detail)
        self.kind, self.detail, self.retry_after_s = kind, detail, retry_after_s


class _Stopping(Exception):
    """Something else has ended the work."""


@dataclass
class EndpointGenerator:
    base_url: str
    model: str
    api_key: SecretStr | None = None
    temperature: float = 0.0
    """Of requests that say none. No seed is sent: many endpoints refuse one."""
    concurrency: int = 8
    timeout_s: float = 120.0
    backoff_s: float = 1.0
    """Before the second attempt; doubled for each one after it."""
    troubles: Counter[str] = field(default_factory=Counter)
    """Calls that were not answered, by what was wrong: `HTTP 429`, `timeout`, ..."""
    _says_limit_as: str = field(default="max_tokens", init=False)
    _takes_schemas: bool = field(default=True, init=False)
    _opens_at: float = field(default=0.0, init=False)
    _failed_in_a_row: int = field(default=0, init=False)

    def start(self) -> None:
        """Nothing is opened before the first request."""

    def generate(self, requests: Sequence[ChatRequest], on_done: OnDone) -> list[Completion]:
        """Answer every request, in the order asked; `on_done` is told in the order of arrival.

        A request that the endpoint refuses, or that no attempt gets answered, is a completion with its error.

        Raises:
            StageError: the endpoint refuses all requests, asks for too long a pause, or no more answers come.
        """
        return asyncio.run(self._generate(requests, on_done))

    async def _generate(self, requests: Sequence[ChatRequest], on_done: OnDone) -> list[Completion]:
        done: dict[str, Completion] = {}
        if not requests:
            return []
        left, stopping = iter(requests), asyncio.Event()
        key = self.api_key.get_secret_value() if self.api_key else "none"
        async with openai.AsyncOpenAI(
            base_url=self.base_url, api_key=key, max_retries=0, timeout=None
        ) as client:
            workers = [
                asyncio.create_task(self._work(client, left, stopping, done, on_done))
                for _ in range(min(self.concurrency, len(requests)))
            ]
            try:
                await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
                stopping.set()
                await asyncio.wait(workers)
            except asyncio.CancelledError:
                stopping.set()
                await asyncio.wait(workers, timeout=INTERRUPT_S)
                raise
        for failure in filter(None, [worker.exception() for worker in workers]):
            raise failure
        return [done[request.id] for request in requests]

    async def _work(
        self,
        client: openai.AsyncOpenAI,
        left: Iterator[ChatRequest],
        stopping: asyncio.Event,
        done: dict[str, Completion],
        on_done: OnDone,
    ) -> None:
        """Take one request after the other from those that are left."""
        for request in left:
            try:
                completion = await self._answer(client, request, stopping)
            except _Stopping:
                return
            done[request.id] = completion
            on_done(completion)
            if stopping.is_set():
                return

    async def _answer(
        self, client: openai.AsyncOpenAI, request: ChatRequest, stopping: asyncio.Event
    ) -> Completion:
        async def pause(seconds: float) -> None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), seconds)
                raise _Stopping

        async def attempt() -> Completion:
            # One who is told to wait waits for all.
            await pause(self._opens_at - time.monotonic())
            return await self._attempt(client, request)

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_Trouble),
            stop=stop_after_attempt(MAX_ATTEMPTS),
            wait=self._wait_s,
            sleep=pause,
            reraise=True,
        )
        try:
            completion: Completion = await retrying(attempt)
        except _Trouble as trouble:
            error = f"{trouble.kind} at each of {MAX_ATTEMPTS} attempts, the last: {trouble.detail}"
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= GIVE_UP_AFTER:
                raise StageError(
                    f"{self.base_url} answers no more: {GIVE_UP_AFTER} requests in a row failed, {error};"
                    " what was answered is kept, and the same command goes on from there"
                ) from None
            return Completion(request.id, "", "error", 0, 0, error=error)
        except openai.APIStatusError as refusal:
            return Completion(request.id, "", "error", 0, 0, error=self._said(refusal))
        self._failed_in_a_row = 0
        return completion

    def _wait_s(self, state: RetryCallState) -> float:
        trouble = state.outcome.exception() if state.outcome else None
        if isinstance(trouble, _Trouble) and trouble.retry_after_s is not None:
            return trouble.retry_after_s + random.uniform(0, self.backoff_s)
        backoff = wait_exponential_jitter(multiplier=self.backoff_s, max=MAX_BACKOFF_S, jitter=self.backoff_s)
        return backoff(state)

    async def _attempt(self, client: openai.AsyncOpenAI, request: ChatRequest) -> Completion:
        """Ask once, and once more where the endpoint does not know what only some endpoints know.

        Raises:
            _Trouble: another attempt may be answered.
            openai.APIStatusError: none will be.
        """
        limit = self._says_limit_as
        structured = request.json_schema is not None and self._takes_schemas
        try:
            return await self._call(client, request, limit, structured)
        except openai.APIStatusError as refusal:
            if limit == "max_tokens" and "max_completion_tokens" in refusal.message:
                self._says_limit_as = "max_completion_tokens"
                return await self._attempt(client, request)
            if not structured or refusal.status_code not in (400, 422):
                raise
            completion = await self._call(client, request, limit, False)
            if self._takes_schemas:
                self._takes_schemas = False
                logger.warning(
                    "%s refuses response_format (%s): its answers are only checked",
                    self.base_url,
                    self._said(refusal),
                )
            return completion

    async def _call(
        self, client: openai.AsyncOpenAI, request: ChatRequest, limit: str, structured: bool
    ) -> Completion:
        assert not request.tools, "an endpoint is asked for text, not for calls"
        assert not request.choices, "endpoints do not all tell probabilities"
        temperature = self.temperature if request.temperature is None else request.temperature
        parameters: dict[str, Any] = {
            "model": self.model,
            "messages": list(request.messages),
            "temperature": temperature,
            limit: request.max_tokens,
        }
        if structured:
            schema = {"name": "answer", "strict": True, "schema": request.json_schema}
            parameters["response_format"] = {"type": "json_schema", "json_schema": schema}
        try:
            async with asyncio.timeout(self.timeout_s):
                response = await client.chat.completions.with_raw_response.create(**parameters)
        except TimeoutError:
            raise self._trouble("timeout", f"no answer in {self.timeout_s:g} s") from None
        except openai.APIConnectionError as error:
            raise self._trouble("connection", str(error.__cause__ or error)) from None
        except openai.APIStatusError as error:
            if error.status_code in _REFUSES_ALL or error.code == "insufficient_quota":
                role = "check the base URL, the key and the model's name"
                raise StageError(
                    f"{self.base_url} refuses {self.model!r}: {self._said(error)}; {role}"
                ) from None
            if error.status_code in _BUSY or error.status_code >= 500:
                kind, said = f"HTTP {error.status_code}", self._said(error)
                raise self._trouble(kind, said, _retry_after_s(error.response.headers)) from None
            self.troubles[f"HTTP {error.status_code}"] += 1
            raise
        return self._completion(request, response.content)

    def _completion(self, request: ChatRequest, content: bytes) -> Completion:
        try:
            answer = _Answer.model_validate_json(content)
        except ValidationError:
            excerpt = repr(content[:_EXCERPT_BYTES])
            raise self._trouble("garbage", f"no chat completion but {excerpt}") from None
        if answer.usage is None:
            raise StageError(f"{self.base_url} reports no usage, so what its answers take cannot be counted")
        choice, usage = answer.choices[0], answer.usage
        tokens = usage.prompt_tokens, usage.completion_tokens
        refusal = choice.message.refusal
        if refusal or choice.finish_reason == "content_filter":
            error = f"refused: {refusal or 'content filter'}"
            return Completion(request.id, "", "error", *tokens, error=error, model=answer.model)
        reason: FinishReason = "length" if choice.finish_reason == "length" else "stop"
        cached = usage.prompt_tokens_details.cached_tokens or 0 if usage.prompt_tokens_details else 0
        text = choice.message.content or ""
        return Completion(request.id, text, reason, *tokens, cached_tokens=cached, model=answer.model)

    def _trouble(self, kind: str, detail: str, retry_after_s: float | None = None) -> _Trouble:
        self.troubles[kind] += 1
        if retry_after_s is not None:
            if retry_after_s > MAX_RETRY_AFTER_S:
                raise StageError(
                    f"{self.base_url} asks to wait for {retry_after_s:.0f} s ({detail}); what was answered is"
                    " kept: run the same command again later"
                )
            if retry_after_s >= _WORTH_SAYING_S:
                logger.info("%s asks to wait for %.0f s", self.base_url, retry_after_s)
            self._opens_at = max(self._opens_at, time.monotonic() + retry_after_s)
        return _Trouble(kind, detail, retry_after_s)

    def _said(self, error: openai.APIStatusError) -> str:
        """The endpoint's own words, without the key, which some repeat."""
        said = error.message
        if self.api_key and (secret := self.api_key.get_secret_value()):
            said = said.replace(secret, "[key]")
        return f"HTTP {error.status_code}: {said[:_EXCERPT_BYTES]}"


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _PromptDetails(BaseModel):
    cached_tokens: int | None = None


class _Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _PromptDetails | None = None


class _Answer(BaseModel):
    """What is read of a chat completion; the SDK's own model takes anything."""

    model: str = ""
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait (RFC 9110, sec. 10.2.3: seconds or a date; some endpoints send milliseconds too)."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        text = headers["retry-after"]
    except (KeyError, ValueError):
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
