"""A generator that says what it was told to: for tests, and for trying a scenario out without a model."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tunebook_inference.generator import ChatRequest, Completion, FinishReason, OnDone


@dataclass(frozen=True)
class ScriptedGenerator:
    answers: Mapping[str, str] | Callable[[ChatRequest], str]
    """By the content of the last message, or a function of the request.

    Words are its tokens, made-up numbers their ids, and it is certain of each.
    """

    def generate(self, requests: Sequence[ChatRequest], on_done: OnDone) -> list[Completion]:
        completions = []
        for request in requests:
            completion = self._answer(request)
            on_done(completion)
            completions.append(completion)
        return completions

    def _answer(self, request: ChatRequest) -> Completion:
        prompt_tokens = sum(len(message["content"].split()) for message in request.messages)
        asked = request.messages[-1]["content"]
        if callable(self.answers):
            text = self.answers(request)
        elif asked in self.answers:
            text = self.answers[asked]
        else:
            error = f"no answer is scripted for {asked!r}"
            return Completion(request.id, "", "error", prompt_tokens, 0, error=error)
        words = text.split()
        is_cut = len(words) > request.max_tokens
        if is_cut:
            words = words[: request.max_tokens]
            text = " ".join(words)
        ids = tuple(_made_up_id(word) for word in words)
        certain = tuple(((id, 0.0),) for id in ids) if request.top_logprobs else ()
        reason: FinishReason = "length" if is_cut else "stop"
        return Completion(request.id, text, reason, prompt_tokens, len(words), ids, certain)


def _made_up_id(word: str) -> int:
    """The same in every process; small enough for any vocabulary."""
    return 5 + zlib.crc32(word.encode()) % 250
