"""The row formats in use elsewhere: how a record of each becomes a conversation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tunebook_data.rejects import Fault
from tunebook_model.conversation import Message, Role
from tunebook_spec.models import Columns, RowFormat, template_fields

Conversation = tuple[tuple[Message, ...], dict[str, Any]]
"""The messages, and the other fields of the record."""
KnownFormat = RowFormat | Literal["preference"]

_FIELDS: Mapping[KnownFormat, tuple[str, ...]] = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "preference": ("preferred_output", "non_preferred_output"),
    "alpaca": ("instruction", "output"),
    "prompt_completion": ("prompt", "completion"),
}
TOOL_FIELDS = ("tools", "functions")
_USES_TOOLS = "uses tools, which are not supported yet"
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


_MESSAGES = _Turns(
    "messages", "role", "content", {"system": "system", "user": "user", "assistant": "assistant"}
)
_SHAREGPT = _Turns(
    "conversations",
    "from",
    "value",
    {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"},
)


def recognise(record: Mapping[str, Any]) -> KnownFormat | None:
    """The first format whose fields a record has."""
    for name, fields in _FIELDS.items():
        if all(record.get(field) is not None for field in fields):
            return name
    return None


def fields_by_format() -> str:
    """For messages: each format with the fields that it is known by."""
    return "; ".join(
        f"{name} ({', '.join(fields)})" for name, fields in _FIELDS.items() if name != "preference"
    )


def conversation(record: dict[str, Any], form: RowFormat | Columns) -> Conversation | Fault:
    """The conversation of a record, whose content is left as it is."""
    if isinstance(form, Columns):
        return _columns(record, form)
    for field in TOOL_FIELDS:
        if record.get(field):
            return Fault(field, _USES_TOOLS, record[field])
    match form:
        case "messages":
            return _turns(record, _MESSAGES)
        case "sharegpt":
            return _turns(record, _SHAREGPT)
        case "alpaca":
            return _alpaca(record)
        case "prompt_completion":
            return _pair(record, "prompt", "completion")


def _turns(record: dict[str, Any], form: _Turns) -> Conversation | Fault:
    given = record.get(form.field)
    if not isinstance(given, list):
        return Fault(form.field, f"no list of {form.field}", given)
    messages: list[Message] = []
    for index, each in enumerate(given):
        fault = _turn_fault(each, f"{form.field}[{index}]", form)
        if fault:
            return fault
        messages.append({"role": form.roles[each[form.role]], "content": each[form.content]})
    return tuple(messages), _without(record, form.field)


def _turn_fault(turn: Any, at: str, form: _Turns) -> Fault | None:
    if not isinstance(turn, dict):
        return Fault(at, "message is not an object", turn)
    role, content = turn.get(form.role), turn.get(form.content)
    # Tables have every field in every row: a null is a field that is not there.
    given = {key for key, value in turn.items() if value not in (None, [])}
    more = sorted(given - {form.role, form.content})
    tools = next((key for key in ("tool_calls", "function_call") if key in more), None)
    if tools or role in _TOOL_ROLES:
        return Fault(f"{at}.{tools or form.role}", _USES_TOOLS, turn.get(tools or form.role))
    if not isinstance(role, str) or role not in form.roles:
        return Fault(f"{at}.{form.role}", f"role is none of {', '.join(form.roles)}", role)
    if isinstance(content, list):
        return Fault(f"{at}.{form.content}", _HAS_PARTS, content)
    if not isinstance(content, str):
        return Fault(f"{at}.{form.content}", "content is not a string", content)
    if more:
        # A weight or a name would change what is trained: leaving it out in silence is no way.
        return Fault(f"{at}.{more[0]}", f"message has more than {form.role} and {form.content}", more)
    return None


def _alpaca(record: dict[str, Any]) -> Conversation | Fault:
    for field in ("input", "system"):
        if record.get(field) is not None and (fault := _not_text(record, field)):
            return fault
    if record.get("history"):
        return Fault("history", _MORE_TURNS, record["history"])
    pair = _pair(record, "instruction", "output")
    if isinstance(pair, Fault):
        return pair
    (user, assistant), _ = pair
    if record.get("input"):
        user = {"role": "user", "content": f"{user['content']}\n\n{record['input']}"}
    system: list[Message] = [{"role": "system", "content": record["system"]}] if record.get("system") else []
    used = ("instruction", "input", "output", "system", "history")
    return (*system, user, assistant), _without(record, *used)


def _pair(record: dict[str, Any], user: str, assistant: str) -> Conversation | Fault:
    for field in (user, assistant):
        if fault := _not_text(record, field):
            return fault
    messages: tuple[Message, ...] = (
        {"role": "user", "content": record[user]},
        {"role": "assistant", "content": record[assistant]},
    )
    return messages, _without(record, user, assistant)


def _columns(record: dict[str, Any], columns: Columns) -> Conversation | Fault:
    templates: tuple[tuple[Role, str | None], ...] = (
        ("system", columns.system),
        ("user", columns.user),
        ("assistant", columns.assistant),
    )
    messages: list[Message] = []
    for role, template in templates:
        if template is None:
            continue
        for field in template_fields(template):
            if fault := _not_text(record, field):
                return fault
        messages.append({"role": role, "content": template.format_map(record)})
    return tuple(messages), record


def _not_text(record: Mapping[str, Any], field: str) -> Fault | None:
    value = record.get(field)
    if value is None:
        return Fault(field, f"no {field!r}", f"fields: {', '.join(record)}")
    return None if isinstance(value, str) else Fault(field, f"{field!r} is not a string", value)


def _without(record: Mapping[str, Any], *fields: str) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in fields}
