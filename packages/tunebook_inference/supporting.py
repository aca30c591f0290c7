"""A supporting model, such as a teacher or a judge: asked once for each answer, counted, within a budget."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import orjson

from tunebook_inference.generator import ChatRequest, Completion, Generator, OnDone
from tunebook_inference.kept_answers import KeptAnswers
from tunebook_inference.scripted import Script, ScriptedGenerator
from tunebook_model.resolve import ReadyModel
from tunebook_run.settings import ModelSettings
from tunebook_spec.base_model import AnySupportingModel, BaseModelReference, EndpointModel, ScriptedModel
from tunebook_spec.errors import StageError
from tunebook_spec.fields import Frozen

KEY_FORMAT = 1
"""Raised when what a key is made of changes: every answer is then asked for again."""
_MILLION = 1_000_000

OpenEngine = Callable[[Path, dict[str, str | bool]], Generator]


@dataclass(frozen=True)
class Prices:
    """Money for a million tokens."""

    prompt: float
    completion: float

    def of(self, answer: Completion) -> float:
        return (self.prompt * answer.prompt_tokens + self.completion * answer.completion_tokens) / _MILLION


@dataclass(frozen=True)
class Budget:
    """What all answers of one stage may take, whenever they were answered; none: no bound."""

    tokens: int | None = None
    cost: float | None = None


@dataclass
class Spent:
    answers: int = 0
    resumed: int = 0
    """Of these, answered by an earlier attempt or for another data set, and not asked for again."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    """None where the prices are not known."""

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def since(self, before: Spent) -> Spent:
        """What was spent after `before`."""
        return Spent(
            self.answers - before.answers,
            self.resumed - before.resumed,
            self.prompt_tokens - before.prompt_tokens,
            self.completion_tokens - before.completion_tokens,
            None if self.cost is None else self.cost - (before.cost or 0.0),
        )

    def __str__(self) -> str:
        cost = "" if self.cost is None else f" cost={self.cost:.4f}"
        return f"tokens={self.tokens}{cost}"


class Taken(Frozen):
    """What answers took, for the record of a stage."""

    reported_models: tuple[str, ...]
    """Models that an endpoint said had answered."""
    answers: int
    """Those of repairs included; equal questions are asked once."""
    resumed: int
    """Of these, answered before and not asked for, or paid for, again."""
    troubles: dict[str, int]
    """Calls of this attempt that were not answered, by what was wrong."""
    prompt_tokens: int
    """Of all answers, whenever they were made; so is the rest."""
    completion_tokens: int
    cost: float | None
    """None where the prices are not known."""

    @property
    def of_any_attempt(self) -> Self:
        """Without what the attempt at hand met, which another at the same questions would not."""
        return self.model_copy(update={"resumed": 0, "troubles": {}})


@dataclass
class SupportingModel:
    """A generator that keeps what it is answered."""

    role: str
    """Its name under `models` of a spec."""
    who: str
    """The model and its host, or the digest of its weights: a part of every key."""
    generator: Generator
    kept: KeptAnswers
    is_remote: bool = False
    """What it is asked leaves this machine."""
    is_endpoint: bool = False
    """It is asked by the OpenAI protocol: for text, not for calls."""
    weighs_choices: bool = False
    """It can say how likely each of a request's choices is."""
    prices: Prices | None = None
    budget: Budget = Budget()
    settings: str | None = None
    """What its settings begin with; None: TUNEBOOK_MODELS__ and its role."""
    spent: Spent = field(default_factory=Spent)
    troubles: Counter[str] = field(default_factory=Counter)
    """Calls of this process that were not answered, by what was wrong; the generator counts them."""
    reported: Counter[str] = field(default_factory=Counter)
    """Answers by the model that an endpoint said had answered."""

    def start(self) -> None:
        self.generator.start()

    def generate(self, requests: Sequence[ChatRequest], on_done: OnDone) -> list[Completion]:
        """Answer every request, in the order asked; equal questions are asked once.

        Raises:
            StageError: the budget is spent; all that was answered is kept.
        """
        askers: dict[str, list[ChatRequest]] = defaultdict(list)
        for request in requests:
            askers[self._key(request)].append(request)
        done: dict[str, Completion] = {}

        def hand_over(answer: Completion) -> None:
            self._count(answer)
            for request in askers[answer.id]:
                done[request.id] = replace(answer, id=request.id)
                on_done(done[request.id])

        for answer in self.kept.find(askers).values():
            self.spent.resumed += 1
            hand_over(answer)
        missing = [replace(each[0], id=key) for key, each in askers.items() if each[0].id not in done]

        def keep(answer: Completion) -> None:
            if answer.completion_tokens or answer.error is None:
                self.kept.keep(answer.id, self.who, answer)
            hand_over(answer)
            if len(done) < len(requests):
                self._stop_at_budget()

        if missing:
            self._stop_at_budget()
            self.generator.generate(missing, keep)
        return [done[request.id] for request in requests]

    def taken(self, spent: Spent) -> dict[str, Any]:
        """The fields of `Taken`, of what was spent of this model."""
        return {
            "reported_models": tuple(sorted(self.reported)),
            "answers": spent.answers,
            "resumed": spent.resumed,
            "troubles": dict(self.troubles.most_common()),
            "prompt_tokens": spent.prompt_tokens,
            "completion_tokens": spent.completion_tokens,
            "cost": None if spent.cost is None else round(spent.cost, 9),
        }

    def cost(self, answer: Completion) -> float | None:
        return None if self.prices is None else self.prices.of(answer)

    def _key(self, request: ChatRequest) -> str:
        asked: list[Any] = [KEY_FORMAT, self.who, request.messages, request.max_tokens, request.temperature]
        asked += [request.json_schema, request.sample, *([request.choices] if request.choices else [])]
        content = orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)
        return hashlib.sha256(content).hexdigest()

    def _count(self, answer: Completion) -> None:
        self.spent.answers += 1
        self.spent.prompt_tokens += answer.prompt_tokens
        self.spent.completion_tokens += answer.completion_tokens
        if (cost := self.cost(answer)) is not None:
            self.spent.cost = (self.spent.cost or 0.0) + cost
        if answer.model:
            self.reported[answer.model] += 1

    def _stop_at_budget(self) -> None:
        spent, budget = self.spent, self.budget
        name = f"{self.settings or f'TUNEBOOK_MODELS__{self.role.upper()}'}__BUDGET"
        told = None
        if budget.tokens is not None and spent.tokens >= budget.tokens:
            told = f"{spent.tokens} tokens of {name}_TOKENS={budget.tokens}"
        elif budget.cost is not None and spent.cost is not None and spent.cost >= budget.cost:
            told = f"{spent.cost:.4f} of {name}_COST={budget.cost}"
        if told is not None:
            raise StageError(
                f"the budget of {self.role} ({self.who}) is spent: {told}, for {spent.answers} answers; they"
                " are kept, and the same command goes on from them under a bigger budget"
            )


def identity(
    reference: AnySupportingModel, settings: ModelSettings, ready: ReadyModel | None, spec_dir: Path
) -> str:
    """What answers: a model and its host, or weights or a script by their digest; the same on every machine.

    Args:
        reference: of the spec.
        settings: of its role on this machine; an endpoint has its base URL.
        ready: the weights; none for an endpoint or a script.
        spec_dir: what a script's path is relative to.

    Raises:
        DataError: a script cannot be read.
    """
    if isinstance(reference, ScriptedModel):
        return f"script {Script.read(reference, spec_dir).digest}"
    if isinstance(reference, EndpointModel):
        assert settings.base_url is not None, "checked before anything runs"
        return f"{reference.model} at {settings.base_url.partition('://')[2]}"
    assert ready is not None, "weights are made ready before anything runs"
    return f"{ready.name} {ready.digest}"


def open_model(
    role: str,
    reference: AnySupportingModel,
    settings: ModelSettings,
    ready: ReadyModel | None,
    kept: KeptAnswers,
    spec_dir: Path,
    open_engine: OpenEngine,
    prefix: str | None = None,
) -> SupportingModel:
    """A supporting model of a spec, ready to be asked.

    Args:
        role: its name in the spec.
        reference: of the spec.
        settings: of its role on this machine.
        ready: its weights; none for an endpoint or a script.
        kept: what was answered before.
        spec_dir: what a script's path is relative to.
        open_engine: opens what runs weights, by their folder and the arguments of their chat template.
        prefix: begins its settings, if not by its role.

    Raises:
        DataError: its script cannot be read.
        MissingExtraError: it is to run on this machine, and vLLM is not installed.
    """
    generator, troubles = _generator(reference, settings, ready, spec_dir, open_engine)
    prices = None
    if settings.price_in is not None and settings.price_out is not None:
        prices = Prices(settings.price_in, settings.price_out)
    return SupportingModel(
        role=role,
        settings=prefix,
        who=identity(reference, settings, ready, spec_dir),
        generator=generator,
        kept=kept,
        is_remote=isinstance(reference, EndpointModel),
        is_endpoint=isinstance(reference, EndpointModel),
        weighs_choices=isinstance(reference, BaseModelReference),
        prices=prices,
        budget=Budget(settings.budget_tokens, settings.budget_cost),
        troubles=troubles,
    )


def _generator(
    reference: AnySupportingModel,
    settings: ModelSettings,
    ready: ReadyModel | None,
    spec_dir: Path,
    open_engine: OpenEngine,
) -> tuple[Generator, Counter[str]]:
    if isinstance(reference, ScriptedModel):
        return ScriptedGenerator(Script.read(reference, spec_dir)), Counter()
    if isinstance(reference, EndpointModel):
        from tunebook_inference.endpoint import EndpointGenerator

        assert settings.base_url is not None, "checked before anything runs"
        endpoint = EndpointGenerator(
            settings.base_url,
            reference.model,
            settings.api_key,
            concurrency=settings.concurrency,
            timeout_s=settings.timeout_s,
        )
        return endpoint, endpoint.troubles
    assert ready is not None, "weights are made ready before anything runs"
    return open_engine(ready.path, reference.chat_template_kwargs), Counter()
