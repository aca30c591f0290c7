"""Tools and calls of them as the OpenAI protocol writes them, read from a record."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import orjson

from tunebook_data.answer_schema import schema_problem
from tunebook_data.rejects import Fault
from tunebook_model.conversation import FunctionTool, ToolCall, normal_tool

_TOOL = "is no tool of the form {type: function, function: {name, description, parameters}}"
_CALL = "is no call of the form {id, type: function, function: {name, arguments}}"


def read_tools(value: Any) -> tuple[FunctionTool, ...] | Fault:
    """The tools of a row: a list of function definitions, or the same as JSON text.

    Tables need the text: their nested columns put a null wherever another row's schema has a field.
    """
    if isinstance(value, str):
        try:
            value = orjson.loads(value) if value.strip() else []
        except orjson.JSONDecodeError:
            return Fault("tools", "tools is text and not JSON", value)
    if value is None:
        return ()
    if not isinstance(value, list):
        return Fault("tools", "tools is not a list", value)
    tools: list[FunctionTool] = []
    for index, each in enumerate(value):
        function = _function(each)
        if function is None or not isinstance(function.get("description", ""), str | None):
            return Fault(f"tools[{index}]", _TOOL, each)
        if problem := _schema_problem(orjson.dumps(function.get("parameters"))):
            return Fault(f"tools[{index}].function.parameters", "parameters is no JSON Schema", problem)
        tools.append(normal_tool(function))
    names = [tool["function"]["name"] for tool in tools]
    twice = next((name for name in names if names.count(name) > 1), None)
    return Fault("tools", "two tools have one name", twice) if twice else tuple(tools)


def read_calls(value: Any, at: str) -> list[ToolCall] | Fault:
    """The calls of an assistant turn that has some, their arguments in one spelling of JSON."""
    if not isinstance(value, list):
        return Fault(at, "tool_calls is not a list", value)
    calls: list[ToolCall] = []
    for index, each in enumerate(value):
        function, call_id = _function(each), each.get("id") if isinstance(each, dict) else None
        if function is None or not isinstance(call_id, str) or not call_id:
            return Fault(f"{at}[{index}]", _CALL, each)
        arguments = _arguments(function.get("arguments"))
        if arguments is None:
            where = f"{at}[{index}].function.arguments"
            return Fault(where, "arguments are no JSON object written as text", function.get("arguments"))
        if any(call_id == earlier["id"] for earlier in calls):
            return Fault(f"{at}[{index}].id", "two calls of one turn have one id", call_id)
        named = {"name": function["name"], "arguments": arguments}
        calls.append({"id": call_id, "type": "function", "function": named})  # type: ignore[typeddict-item]
    return calls


def _function(value: Any) -> dict[str, Any] | None:
    """What stands under `function` of a tool or a call, if it has a name."""
    if not isinstance(value, dict) or value.get("type", "function") != "function":
        return None
    function = value.get("function")
    named = isinstance(function, dict) and isinstance(function.get("name"), str) and function["name"]
    return function if named else None


def _arguments(text: Any) -> str | None:
    """A JSON object as text in one spelling, without escapes that hide what it says; None if it is none."""
    try:
        value = orjson.loads(text) if isinstance(text, str) else None
        # Whole numbers of any size survive Python's own parser alone.
        return json.dumps(json.loads(text), ensure_ascii=False) if isinstance(value, dict) else None
    except (orjson.JSONDecodeError, RecursionError):
        return None


@lru_cache(1024)
def _schema_problem(parameters: bytes) -> str | None:
    schema = orjson.loads(parameters)
    if schema is None:
        return None
    try:
        return schema_problem(schema) if isinstance(schema, dict) else "not an object"
    except RecursionError:
        return "nested too deeply"
