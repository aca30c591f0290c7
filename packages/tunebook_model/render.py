"""Conversations to token ids and loss masks: the only place that applies a chat template."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import jinja2
import numpy as np
import numpy.typing as npt

from tunebook_model.conversation import FunctionTool, Message, is_learnt, text_of
from tunebook_model.folder import end_of_turn_ids
from tunebook_spec.errors import DataError, ModelError

_SHARED_TOKEN = (
    "{where}: the end of the prompt and the beginning of the answer share a token that a served model can"
    " never produce; strip the answer's leading whitespace, or pin the template's argument under"
    " base_model.chat_template_kwargs that opens no thinking block (Qwen: `enable_thinking: false`)"
)
_FOLLOW_UP: Message = {"role": "user", "content": "Hello"}


@dataclass(frozen=True)
class SoftTargets:
    """What the supervised places of a row should predict: a distribution instead of one token.

    Shapes: N supervised tokens, K alternatives.
    """

    ids_NK: npt.NDArray[np.int32]
    probabilities_NK: npt.NDArray[np.float32]
    """Each place's sum to 1."""


@dataclass(frozen=True)
class Rendered:
    """Tokens of a row, T of them; arrays, since a data set in Python's lists takes nine times the memory."""

    input_ids: npt.NDArray[np.int32]
    loss_mask: npt.NDArray[np.bool_]
    """True where a token is supervised: the logit before it predicts it."""
    soft_targets: SoftTargets | None = None
    """None: each supervised token itself."""
    weight: float = 1.0
    """How much each supervised token counts in the loss, against one of a row of weight 1."""
    rejected: Rendered | None = None
    """Of a row that is learnt as a preference, the same prompt with the answer that was not preferred."""


@dataclass(frozen=True)
class _Turn:
    """An assistant turn as the last one of its conversation."""

    input_ids: list[int]
    """The conversation up to this turn, and what the template writes after it."""
    start: int
    """Where the prompt that a served model reads ends."""
    end: int
    """Where the end-of-turn token is."""


@dataclass(frozen=True)
class Renderer:
    """Renders chats as one model's template and tokenizer do."""

    tokenizer: Any
    end_of_turn: frozenset[int]
    """The ids on which generation stops."""
    chat_template_kwargs: Mapping[str, str | bool]

    @classmethod
    def load(cls, path: Path, chat_template_kwargs: Mapping[str, str | bool]) -> Renderer:
        """The renderer of the model in a folder of Hugging Face layout.

        Raises:
            ModelError: the template reads the clock, or the model names no end-of-turn token.
        """
        # It takes 2 s, for which those that only show what was rendered need not wait.
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        renderer = cls(tokenizer, end_of_turn_ids(path), dict(chat_template_kwargs))
        renderer.prompt_ids([_FOLLOW_UP])  # meets a clock before the first row does
        return renderer

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[FunctionTool] = ()) -> list[int]:
        """What a served model reads before it answers."""
        return self._encode(self._text(messages, tools, add_generation_prompt=True))

    def shows_tools(self, tools: Sequence[FunctionTool]) -> bool:
        """Whether the template tells the model of its tools: without them a chat gives another text."""
        return self._text([_FOLLOW_UP], tools) != self._text([_FOLLOW_UP], ())

    def last_answer(self, rendered: Rendered) -> str:
        """The last supervised turn as served: without its end of turn and control tokens."""
        end = int(np.flatnonzero(rendered.loss_mask)[-1])
        start = int(np.flatnonzero(~rendered.loss_mask[:end])[-1]) + 1
        spoken = rendered.input_ids[start:end].tolist()
        text: str = self.tokenizer.decode(spoken, skip_special_tokens=True)
        return text

    def render(
        self,
        messages: Sequence[Message],
        supervise: Literal["all", "last"] = "all",
        tools: Sequence[FunctionTool] = (),
    ) -> Rendered:
        """The whole conversation, its assistant turns supervised: all of weight 1, or the last alone.

        A turn is supervised from the end of the prompt that a served model reads (or from where the
        template's own `{% generation %}` mark begins, if later) to its end-of-turn token.

        Raises:
            DataError: a turn cannot be trained as it would be served; says which and why.
        """
        if not messages or messages[-1]["role"] != "assistant":
            raise DataError("the last message of a conversation must be the assistant's answer")
        for i, message in enumerate(messages):
            self._refuse_end_of_turn_inside(message, f"message {i + 1} of {len(messages)}")
        last = self._turn(messages, len(messages) - 1, tools)
        marks = self._generation_marks(messages, last.input_ids, tools)
        loss_mask = np.zeros(len(last.input_ids), np.bool_)
        for i, message in enumerate(messages):
            if is_learnt(message) and (supervise == "all" or i == len(messages) - 1):
                turn = last if i == len(messages) - 1 else self._earlier_turn(messages, i, last, tools)
                loss_mask[_supervised(turn, marks, _where(messages, i))] = True
        return Rendered(np.array(last.input_ids, np.int32), loss_mask)

    def audit(self, rendered: Rendered, *, may_be_cut: bool = False) -> str | None:
        """What is wrong with a loss mask, in words; None if nothing is. A cut answer has no end of turn."""
        ids, mask = rendered.input_ids, rendered.loss_mask
        if len(ids) != len(mask):
            return f"{len(ids)} tokens but {len(mask)} mask entries"
        if not mask.any():
            return "no token is supervised"
        if mask.all():
            return "every token is supervised, the prompt too"
        spans = np.flatnonzero(np.diff(mask, prepend=False, append=False)).reshape(-1, 2)
        is_stop = np.isin(ids, list(self.end_of_turn))
        for number, (start, end) in enumerate(spans.tolist(), 1):
            stops = is_stop[start:end]
            if not stops[-1] and not may_be_cut:
                return f"supervised span {number} of {len(spans)} does not end in an end-of-turn token"
            if np.count_nonzero(stops) > 1:
                return f"supervised span {number} of {len(spans)} goes on after an end-of-turn token"
        return None

    def _turn(self, messages: Sequence[Message], i: int, tools: Sequence[FunctionTool]) -> _Turn:
        where = _where(messages, i)
        if i == 0:
            raise DataError(f"{where}: nothing comes before it; begin with a user turn")
        prompt_text = self._text(messages[:i], tools, add_generation_prompt=True)
        text = self._text(messages[: i + 1], tools)
        _check_texts(prompt_text, text, messages[: i + 1], where)
        prompt = self._encode(prompt_text)
        input_ids = self._continue(prompt, prompt_text, text, where)
        end = self._first_end_of_turn(input_ids, len(prompt))
        if end is None:
            # GLM-4 and its like: the token that opens the next message is the one that generation stops on.
            longer = self._encode(self._text([*messages[: i + 1], *_follow_up(messages[i])], tools))
            end = len(input_ids)
            if longer[:end] != input_ids or not self.end_of_turn.intersection(longer[end : end + 1]):
                raise DataError(
                    f"{where}: no end-of-turn token ({self._end_of_turn_names()}) follows the answer; put the"
                    " token that ends a turn of the chat template into generation_config.json's eos_token_id"
                )
            input_ids = longer[: end + 1]
        return _Turn(input_ids, len(prompt), end)

    def _continue(self, prompt: list[int], prompt_text: str, text: str, where: str) -> list[int]:
        """Ids of the whole text that begin with the ids of its prompt, as they do when a model is served."""
        input_ids = self._encode(text)
        if input_ids[: len(prompt)] == prompt:
            return input_ids
        # They meet inside one token (`<think>\n` + `\n</think>`), which no served model can produce.
        apart = prompt + self._encode(text[len(prompt_text) :])
        if self.tokenizer.decode(apart) != self.tokenizer.decode(input_ids):
            raise DataError(_SHARED_TOKEN.format(where=where))
        return apart

    def _earlier_turn(
        self, messages: Sequence[Message], i: int, last: _Turn, tools: Sequence[FunctionTool]
    ) -> _Turn:
        turn = self._turn(messages, i, tools)
        if last.input_ids[: turn.end + 1] != turn.input_ids[: turn.end + 1]:
            raise DataError(
                f"{_where(messages, i)}: the template renders this turn otherwise once others follow (drops"
                " its thinking, or ends it by another token), so that training would differ from serving;"
                " split the conversation, or give this turn weight 0"
            )
        return turn

    def _generation_marks(
        self, messages: Sequence[Message], input_ids: list[int], tools: Sequence[FunctionTool]
    ) -> list[bool] | None:
        """Which tokens the template itself marks as generated; None if it marks nothing."""
        if not re.search(r"{%-?\s*generation\s*-?%}", self.tokenizer.get_chat_template()):
            return None
        out = self.tokenizer.apply_chat_template(
            list(map(_for_template, messages)),
            tools=list(tools) or None,
            return_dict=True,
            return_assistant_tokens_mask=True,
            **self._template_kwargs,
        )
        if input_ids[: len(out["input_ids"])] != out["input_ids"]:
            raise DataError(_SHARED_TOKEN.format(where=_where(messages, len(messages) - 1)))
        return [bool(mark) for mark in out["assistant_masks"]]

    def _text(
        self,
        messages: Sequence[Message],
        tools: Sequence[FunctionTool],
        *,
        add_generation_prompt: bool = False,
    ) -> str:
        try:
            text: str = self.tokenizer.apply_chat_template(
                list(map(_for_template, messages)),
                tools=list(tools) or None,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **self._template_kwargs,
            )
        except (jinja2.TemplateError, TypeError) as error:
            raise DataError(f"the chat template refuses the conversation: {error}") from None
        return text

    @property
    def _template_kwargs(self) -> dict[str, Any]:
        return {"strftime_now": self._refuse_clock, **self.chat_template_kwargs}

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _first_end_of_turn(self, input_ids: list[int], start: int) -> int | None:
        return next((k for k in range(start, len(input_ids)) if input_ids[k] in self.end_of_turn), None)

    def _refuse_end_of_turn_inside(self, message: Message, where: str) -> None:
        for token in self.tokenizer.convert_ids_to_tokens(sorted(self.end_of_turn)):
            if token in text_of(message):
                raise DataError(
                    f"{where}: its text holds {token!r}, which would end the turn there; remove it"
                )

    def _end_of_turn_names(self) -> str:
        return ", ".join(map(repr, self.tokenizer.convert_ids_to_tokens(sorted(self.end_of_turn))))

    def _refuse_clock(self, form: str) -> NoReturn:
        names = re.findall(r"(\w*date\w*) is (?:not )?defined", self.tokenizer.get_chat_template())
        cure = (
            f"pin it in the spec, e.g. base_model.chat_template_kwargs: {{{names[0]}: 26 Jul 2024}}"
            if names
            else "it takes no argument for it under base_model.chat_template_kwargs, so give the model folder"
            " a chat_template.jinja with a fixed date"
        )
        raise ModelError(f"the chat template prints today's date ({form}), so ids change at midnight; {cure}")


def _where(messages: Sequence[Message], i: int) -> str:
    turns = [k for k, message in enumerate(messages) if message["role"] == "assistant"]
    return f"assistant turn {turns.index(i) + 1} of {len(turns)} (message {i + 1} of {len(messages)})"


def _for_template(message: Message) -> dict[str, Any]:
    """A message as vLLM's server hands it to the template: the arguments of calls as objects."""
    made: dict[str, Any] = {key: value for key, value in message.items() if key != "weight"}
    if "tool_calls" in message:
        made["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}}
            for call in message["tool_calls"]
        ]
    return made


def _follow_up(message: Message) -> list[Message]:
    """What may come after an assistant's turn: the answers to its calls, or the user."""
    calls = message.get("tool_calls", ())
    answers: list[Message] = [
        {"role": "tool", "content": "Done", "tool_call_id": call["id"]} for call in calls
    ]
    return answers or [_FOLLOW_UP]


def _check_texts(prompt: str, text: str, messages: Sequence[Message], where: str) -> None:
    """Refuse a template whose rendered turn does not continue its own prompt, or leaves out what was said."""
    if not text.startswith(prompt):
        lost = prompt[_common_prefix(prompt, text) :]
        raise DataError(
            f"{where}: a served model's prompt goes on with {lost[:40]!r} where the rendered turn does not;"
            " pin the template's argument under base_model.chat_template_kwargs (`enable_thinking: false`),"
            " or give the model folder a chat_template.jinja whose answers continue its prompt"
        )
    asked = _squeeze(prompt)
    said = [(i, message) for i, message in enumerate(messages) if message["role"] != "assistant"]
    dropped = [i for i, message in said if not _holds(asked, message["content"])]
    answer = _squeeze(text[len(prompt) :])
    if not all(_holds(answer, each) for each in _parts(messages[-1])):
        dropped.append(len(messages) - 1)
    if dropped:
        raise DataError(
            f"{where}: the chat template leaves out text of message {dropped[0] + 1}"
            f" ({messages[dropped[0]]['role']}): a template that takes images, drops thinking, or knows no"
            " tool calls; change the text, or give the model folder another chat_template.jinja"
        )


def _supervised(turn: _Turn, marks: list[bool] | None, where: str) -> list[int]:
    """Positions of a turn's supervised tokens; marks that stop short of its end are extended."""
    span = range(turn.start, turn.end + 1)
    if marks is None:
        return list(span)
    marked = [k for k in span if k < len(marks) and marks[k]]
    if not marked:
        raise DataError(
            f"{where}: the template's generation marks leave this turn out; mend the chat template"
        )
    return [*marked, *range(marked[-1] + 1, turn.end + 1)]


def _common_prefix(a: Sequence[object], b: Sequence[object]) -> int:
    return next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _parts(message: Message) -> Iterator[str]:
    """Texts that a rendered turn has to hold: its content, and the names and texts of its calls."""
    yield message["content"]
    for call in message.get("tool_calls", ()):
        yield call["function"]["name"]
        yield from _texts(json.loads(call["function"]["arguments"]))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            yield key
            yield from _texts(each)


def _holds(squeezed: str, text: str) -> bool:
    """Whether a text is there: as it is, or as JSON or Python spells it in quotes."""
    if _squeeze(text) in squeezed:
        return True
    quoted = json.dumps(text, ensure_ascii=False), repr(text)
    return any(_squeeze(each[1:-1]) in squeezed for each in quoted)


def _squeeze(text: str) -> str:
    """Templates trim and re-space what they are given; the rest of the text must survive."""
    return "".join(text.split())
