"""What answers chats, seen from the side that asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from tunebook_model.conversation import FunctionTool, Message
from tunebook_model.render import Renderer

FinishReason = Literal["stop", "length", "error"]


@dataclass(frozen=True)
class Decoding:
    temperature: float = 0.0
    """0 is greedy."""
    seed: int = 0


@dataclass(frozen=True)
class ChatRequest:
    id: str
    """Unique within one call."""
    messages: tuple[Message, ...]
    max_tokens: int
    """Longest answer."""
    top_logprobs: int = 0
    """How many of the likeliest tokens to report at each place of the answer."""
    tools: tuple[FunctionTool, ...] = ()
    """What the model may call."""
    temperature: float | None = None
    """None: the generator's own."""
    sample: int = 0
    """Tells several answers to the same question apart."""
    json_schema: Mapping[str, Any] | None = None
    """What the answer has to match, held to where the generator can; who asks checks it all the same."""
    choices: tuple[str, ...] = ()
    """Single tokens of which one is the answer: how likely each is gets reported, and nothing more is said.
    For generators that read probabilities."""


TokenLogprobs = tuple[tuple[int, float], ...]
"""The likeliest tokens of one place, best first, with their natural log-probabilities."""


@dataclass(frozen=True)
class Completion:
    id: str
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    """End-of-turn token included."""
    token_ids: tuple[int, ...] = ()
    """The answer as the model spoke it, end-of-turn token included."""
    top_logprobs: tuple[TokenLogprobs, ...] = ()
    """One entry a token; empty where none were asked for."""
    error: str | None = None
    """Why this row has no answer; set exactly when `finish_reason` is `error`."""
    choice_logprobs: tuple[float, ...] = ()
    """The natural log-probability of each of the request's choices."""
    cached_tokens: int = 0
    """Of the prompt's, those that an engine had read for an earlier prompt that began the same."""
    model: str = ""
    """What answered, as an endpoint reports it; empty where the one who asks chose the weights."""


OnDone = Callable[[Completion], None]


class Generator(Protocol):
    def start(self) -> None:
        """Do now what the first request would have to wait for, so that answers can be timed alone."""
        ...

    def generate(self, requests: Sequence[ChatRequest], on_done: OnDone) -> list[Completion]:
        """Answer every request, in the order asked.

        Each completion is handed to `on_done` as soon as it is finished, so that a killed caller keeps what
        it has. A request that cannot be answered becomes a completion with its error; the others go on.
        An exception that `on_done` raises ends the work: nothing more is asked, and it is raised again.
        """
        ...


class Engine(Generator, Protocol):
    """A generator that reads chats as training did."""

    renderer: Renderer

    @property
    def dtype(self) -> str:
        """What it computes in, by torch's name."""
        ...

    def next_tokens(self, prompts: Sequence[Sequence[int]]) -> list[TokenLogprobs]:
        """The likeliest next tokens of each prompt, given as token ids."""
        ...
