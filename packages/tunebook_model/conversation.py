"""The one shape of a chat that every package passes on: plain dicts, as the OpenAI protocol spells them."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

Role = Literal["system", "user", "assistant", "tool"]


class FunctionCall(TypedDict):
    name: str
    arguments: str
    """A JSON object; templates are handed the object itself."""


class ToolCall(TypedDict):
    id: str
    type: Literal["function"]
    function: FunctionCall


class Message(TypedDict):
    role: Role
    content: str
    """Empty where an assistant turn is tool calls alone."""
    weight: NotRequired[Literal[0]]
    """Of an assistant turn that is context and not to be learnt."""
    tool_calls: NotRequired[list[ToolCall]]
    tool_call_id: NotRequired[str]
    """Of a tool message: the call that it answers."""
    name: NotRequired[str]
    """Of a tool message: the function that was called, where the data says it."""


class FunctionTool(TypedDict):
    """A function that a model may call, spelled as `normal_tool` returns it."""

    type: Literal["function"]
    function: dict[str, Any]


def normal_tool(function: dict[str, Any]) -> FunctionTool:
    """A function definition as vLLM's OpenAI server hands it to the chat template.

    Its key order, and its null for a missing description, are what templates print.
    """
    fields = {key: function.get(key) for key in ("name", "description", "parameters")}
    strict = {"strict": function["strict"]} if function.get("strict") is not None else {}
    return {"type": "function", "function": {**fields, **strict}}


def is_learnt(message: Message) -> bool:
    """Whether training supervises a message: assistant turns, but for those of weight 0."""
    return message["role"] == "assistant" and message.get("weight", 1) != 0


def text_of(message: Message) -> str:
    """All that a message says: its content, and the functions it calls with their arguments."""
    if "tool_calls" not in message:
        return message["content"]
    calls = [each["function"] for each in message["tool_calls"]]
    said = [message["content"]] if message["content"] or not calls else []
    return "\n".join([*said, *(f"{call['name']} {call['arguments']}" for call in calls)])
