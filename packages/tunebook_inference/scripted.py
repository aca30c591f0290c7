"""A generator that says what it was told to: for tests, and for trying a scenario out without a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tunebook_inference.generator import ChatRequest, Completion, OnDone


@dataclass(frozen=True)
class ScriptedGenerator:
    answers: Mapping[str, str] | Callable[[ChatRequest], str]
    """By the content of the last message, or a function of the request. Tokens are counted as words."""

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
            return Completion(
                request.id, "", "error", prompt_tokens, 0, f"no answer is scripted for {asked!r}"
            )
        words = text.split()
        if len(words) > request.max_tokens:
            cut = " ".join(words[: request.max_tokens])
            return Completion(request.id, cut, "length", prompt_tokens, request.max_tokens)
        return Completion(request.id, text, "stop", prompt_tokens, len(words))
