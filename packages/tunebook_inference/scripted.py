"""A generator that says what it was told to: for tests, and for trying a scenario out without a model."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from pydantic import TypeAdapter, ValidationError

from tunebook_inference.generator import ChatRequest, Completion, FinishReason, OnDone
from tunebook_spec.base_model import ScriptedModel, ScriptedReply
from tunebook_spec.errors import DataError

_LINES = TypeAdapter(tuple[ScriptedReply, ...])


@dataclass(frozen=True)
class Script:
    """What a scripted model of a spec answers."""

    replies: tuple[ScriptedReply, ...]

    @classmethod
    def read(cls, model: ScriptedModel, spec_dir: Path) -> Script:
        """The script of a model, from the spec or from its file.

        Raises:
            DataError: the file cannot be read, or a line of it is no reply.
        """
        if model.path is None:
            return cls(model.script)
        path = spec_dir / Path(model.path).expanduser()
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"script {model.path}: cannot be read ({error})") from None
        replies = tuple(_reply(model.path, *each) for each in enumerate(lines, start=1) if each[1].strip())
        if not replies:
            raise DataError(f"script {model.path}: has no line; {_FORM}")
        return cls(replies)

    @property
    def digest(self) -> str:
        """Of what it says, wherever that stands."""
        return hashlib.sha256(_LINES.dump_json(self.replies)).hexdigest()

    def __call__(self, request: ChatRequest) -> str | None:
        """The answer of the first pattern that is found; the sample says which of several."""
        for reply in self.replies:
            if found := re.search(reply.pattern, request.messages[-1]["content"]):
                answer = reply.answers[request.sample % len(reply.answers)]
                return Template(answer).substitute({k: v or "" for k, v in found.groupdict().items()})
        return None


_FORM = 'write lines such as {"pattern": "colour of (?P<thing>.+)", "answers": ["$thing is blue."]}'


def _reply(path: str, number: int, line: str) -> ScriptedReply:
    try:
        return ScriptedReply.model_validate_json(line)
    except ValidationError as error:
        (first, *_) = error.errors()
        where = ".".join(map(str, first["loc"]))
        told = f"{where}: {first['msg']}" if where else first["msg"].removeprefix("Value error, ")
        raise DataError(f"script {path}:{number}: {told}; {_FORM}") from None


@dataclass(frozen=True)
class ScriptedGenerator:
    answers: Mapping[str, str] | Callable[[ChatRequest], str | None]
    """By the content of the last message, or a function of the request; None where it has no answer.

    Words are its tokens, made-up numbers their ids, and it is certain of each.
    """

    def start(self) -> None:
        """It is always ready."""

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
        text = self.answers(request) if callable(self.answers) else self.answers.get(asked)
        if text is None:
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
