"""The row formats in use elsewhere: how a record of each becomes a conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from tunebook_data.rejects import Fault
from tunebook_data.tool_use import read_calls, read_tools
from tunebook_model.conversation import FunctionTool, Message, Role, is_learnt
from tunebook_spec.data import Columns, RowFormat, template_fields


class Conversation(NamedTuple):
    messages: tuple[Message, ...]
    meta: dict[str, Any]
    """The other fields of the record."""
    tools: tuple[FunctionTool, ...] = ()
    rejected: Message | None = None
    """The answer that the last one is preferred to, where preferences are learnt."""


NOTES: Mapping[RowFormat, str] = {
    "preference": "trains on preferred_output; non_preferred_output is kept, not trained on: that takes"
    " method.objective dpo",
}
"""What is to be said of a format wherever it is read, and answers alone are learnt."""

_FIELDS: Mapping[RowFormat, tuple[str, ...]] = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "preference": ("preferred_output", "non_preferred_output"),
    "alpaca": ("instruction", "output"),
    "prompt_completion": ("prompt", "completion"),
}
_USES_TOOLS = "uses tools, which only messages and preference can tell"
_OLD_CALLS = "is the protocol's old way to call functions; write tools and tool_calls"
TOOL_FIELDS = ("tools", "functions")
_HAS_PARTS = "content is a list of parts, and only plain text is supported yet"
_MORE_TURNS = "has earlier turns, which only messages and sharegpt can tell"
_TOOL_ROLES = ("tool", "function", "function_call", "observation")


@dataclass(frozen=True)
class _Turns:
    """How a format spells a list of messages."""

    field: str
    role: str
    content: str
    roles: Mapping[str, Role]
    more: Mapping[Role, frozenset[str]]
    """What a message of a role may hold beside its content."""


_MESSAGES = _Turns(
    "messages",
    "role",
    "content",
    {"system": "system", "user": "user", "assistant": "assistant", "tool": "tool"},
    {"assistant": frozenset({"weight", "tool_calls"}), "tool": frozenset({"tool_call_id", "name"})},
)
_SHAREGPT = _Turns(
    "conversations",
    "from",
    "value",
    {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"},
    {},
)
_OUTPUTS = tuple(replace(_MESSAGES, field=each) for each in ("preferred_output", "non_preferred_output"))


def recognise(record: Mapping[str, Any]) -> RowFormat | None:
    """The first format whose fields a record has."""
    for name, fields in _FIELDS.items():
        if all(record.get(field) is not None for field in fields):
            return name
    return None


def fields_by_format() -> str:
    """For messages: each format with the fields that it is known by."""
    return "; ".join(f"{name} ({', '.join(fields)})" for name, fields in _FIELDS.items())


def conversation(
    record: dict[str, Any],
    form: RowFormat | Columns,
    *,
    takes_prompts: bool = False,
    learns_preferences: bool = False,
) -> Conversation | Fault:
    """The conversation of a record, whose content is left as it is.

    Args:
        record: as it was read.
        form: what its fields mean.
        takes_prompts: a record may lack its answer.
        learns_preferences: a preference is learnt by both of its answers.
    """
    if isinstance(form, Columns):
        return _columns(record, form, takes_prompts)
    match form:
        case "messages":
            return _chat(record)
        case "preference":
            return _preference(record, learns_preferences)
    for field in TOOL_FIELDS:
        if record.get(field):
            return Fault(field, _USES_TOOLS, record[field])
    match form:
        case "sharegpt":
            return _turns(record, _SHAREGPT)
        case "alpaca":
            return _alpaca(record, takes_prompts)
        case "prompt_completion":
            return _pair(record, "prompt", "completion", takes_prompts)


def _chat(record: dict[str, Any]) -> Conversation | Fault:
    if record.get("functions"):
        return Fault("functions", _OLD_CALLS, record["functions"])
    tools = read_tools(record.get("tools"))
    if isinstance(tools, Fault):
        return tools
    made = _turns(record, _MESSAGES)
    if isinstance(made, Fault):
        return made
    return Conversation(_up_to_what_is_learnt(made.messages), _without(made.meta, "tools"), tools)


def _up_to_what_is_learnt(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Without the end that an assistant's turn of weight 0 makes: it teaches nothing."""
    learnt = [index for index, message in enumerate(messages) if is_learnt(message)]
    ends_in_context = messages and messages[-1].get("weight") == 0
    return messages[: learnt[-1] + 1] if learnt and ends_in_context else messages


def _preference(record: dict[str, Any], learns_preferences: bool) -> Conversation | Fault:
    """The preferred answer is the one to learn; earlier ones are context."""
    given = record.get("input")
    if not isinstance(given, dict):
        return Fault("input", "no object 'input'", given)
    asked = _chat(given)
    if isinstance(asked, Fault):
        return replace(asked, field=f"input.{asked.field}")
    answers = []
    for output in _OUTPUTS:
        said = _turns(record, output)
        if isinstance(said, Fault):
            return said
        if not (len(said.messages) == 1 and is_learnt(said.messages[0])):
            return Fault(output.field, f"{output.field} is not one assistant message", record[output.field])
        answers.append(said.messages[0])
    context = [_unlearnt(message) for message in asked.messages]
    meta = {**asked.meta, **_without(record, "input", "preferred_output")}
    if not learns_preferences:
        return Conversation((*context, answers[0]), meta, asked.tools)
    if answers[0] == answers[1]:
        return Fault(_OUTPUTS[1].field, "is the preferred answer too", record[_OUTPUTS[1].field])
    meta = _without(meta, "non_preferred_output")
    return Conversation((*context, answers[0]), meta, asked.tools, answers[1])


def _unlearnt(message: Message) -> Message:
    return {**message, "weight": 0} if message["role"] == "assistant" else message


def _turns(record: dict[str, Any], form: _Turns) -> Conversation | Fault:
    given = record.get(form.field)
    if not isinstance(given, list):
        return Fault(form.field, f"no list of {form.field}", given)
    messages: list[Message] = []
    for index, each in enumerate(given):
        at = f"{form.field}[{index}]"
        fault = _turn_fault(each, at, form)
        if fault:
            return fault
        message: Message = {"role": form.roles[each[form.role]], "content": each.get(form.content) or ""}
        is_plain = len(each) == 2 and form.content in each
        if not is_plain and (fault := _add_more(message, each, at)):
            return fault
        messages.append(message)
    return Conversation(tuple(messages), _without(record, form.field))


def _add_more(message: Message, turn: Mapping[str, Any], at: str) -> Fault | None:
    """Weight, calls, and what a tool message answers; 1 is the weight of a turn that says none."""
    if (weight := turn.get("weight")) is not None:
        if isinstance(weight, bool) or weight not in (0, 1):
            return Fault(f"{at}.weight", "weight is neither 0 nor 1", weight)
        if weight == 0:
            message["weight"] = 0
    if turn.get("tool_calls"):
        calls = read_calls(turn["tool_calls"], f"{at}.tool_calls")
        if isinstance(calls, Fault):
            return calls
        message["tool_calls"] = calls
    if message["role"] == "tool":
        for key in ("tool_call_id", "name"):
            if not isinstance(turn.get(key, ""), str | None):
                return Fault(f"{at}.{key}", f"{key} is not a string", turn[key])
        if turn.get("tool_call_id"):
            message["tool_call_id"] = turn["tool_call_id"]
        if turn.get("name"):
            message["name"] = turn["name"]
    return None


def _turn_fault(turn: Any, at: str, form: _Turns) -> Fault | None:
    if not isinstance(turn, dict):
        return Fault(at, "message is not an object", turn)
    role, content = turn.get(form.role), turn.get(form.content)
    # Tables have every field in every row: a null is a field that is not there.
    given = {key for key, value in turn.items() if value not in (None, [])}
    if not isinstance(role, str) or role not in form.roles:
        if role in _TOOL_ROLES:
            return Fault(f"{at}.{form.role}", _OLD_CALLS if form.more else _USES_TOOLS, role)
        return Fault(f"{at}.{form.role}", f"role is none of {', '.join(form.roles)}", role)
    more = sorted(given - {form.role, form.content} - form.more.get(form.roles[role], frozenset()))
    if "function_call" in more:
        return Fault(f"{at}.function_call", _OLD_CALLS, turn["function_call"])
    if content is None and "tool_calls" in given:
        return None
    if isinstance(content, list):
        return Fault(f"{at}.{form.content}", _HAS_PARTS, content)
    if not isinstance(content, str):
        return Fault(f"{at}.{form.content}", "content is not a string", content)
    if more:
        # A weight or a name would change what is trained: leaving it out in silence is no way.
        return Fault(f"{at}.{more[0]}", f"message has more than {form.role} and {form.content}", more)
    return None


def _alpaca(record: dict[str, Any], takes_prompts: bool) -> Conversation | Fault:
    for field in ("input", "system"):
        if record.get(field) is not None and (fault := _not_text(record, field)):
            return fault
    if record.get("history"):
        return Fault("history", _MORE_TURNS, record["history"])
    pair = _pair(record, "instruction", "output", takes_prompts)
    if isinstance(pair, Fault):
        return pair
    user, *answer = pair.messages
    if record.get("input"):
        user = {"role": "user", "content": f"{user['content']}\n\n{record['input']}"}
    system: list[Message] = [{"role": "system", "content": record["system"]}] if record.get("system") else []
    used = ("instruction", "input", "output", "system", "history")
    return Conversation((*system, user, *answer), _without(record, *used))


def _pair(record: dict[str, Any], user: str, assistant: str, takes_prompts: bool) -> Conversation | Fault:
    is_prompt = takes_prompts and _is_unanswered(record, (assistant,))
    for field in (user,) if is_prompt else (user, assistant):
        if fault := _not_text(record, field):
            return fault
    messages: list[Message] = [{"role": "user", "content": record[user]}]
    if not is_prompt:
        messages.append({"role": "assistant", "content": record[assistant]})
    return Conversation(tuple(messages), _without(record, user, assistant))


def _is_unanswered(record: Mapping[str, Any], fields: Sequence[str]) -> bool:
    """Whether all that would make the answer is absent; a CSV file can say that by an empty cell alone."""
    return all(record.get(field) in (None, "") for field in fields)


def _columns(record: dict[str, Any], columns: Columns, takes_prompts: bool) -> Conversation | Fault:
    answer = columns.assistant
    if answer is not None and takes_prompts and _is_unanswered(record, template_fields(answer)):
        answer = None
    templates: tuple[tuple[Role, str | None], ...] = (
        ("system", columns.system),
        ("user", columns.user),
        ("assistant", answer),
    )
    messages: list[Message] = []
    for role, template in templates:
        if template is None:
            continue
        for field in template_fields(template):
            if fault := _not_text(record, field):
                return fault
        messages.append({"role": role, "content": template.format_map(record)})
    return Conversation(tuple(messages), record)


def _not_text(record: Mapping[str, Any], field: str) -> Fault | None:
    value = record.get(field)
    if value is None:
        return Fault(field, f"no {field!r}", f"fields: {', '.join(record)}")
    return None if isinstance(value, str) else Fault(field, f"{field!r} is not a string", value)


def _without(record: Mapping[str, Any], *fields: str) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in fields}
