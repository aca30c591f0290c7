from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.data.reading import GOOD, read, read_rows, said
from tunebook_data.rejects import Reject

WriteJsonl = Callable[..., Path]

USES_TOOLS = "uses tools, which only messages and preference can tell"
OLD_CALLS = "is the protocol's old way to call functions; write tools and tool_calls"
PARTS = "content is a list of parts, and only plain text is supported yet"
NO_ROLE = "role is none of system, user, assistant, tool"
MORE = "message has more than role and content"
NO_WEIGHT = "weight is neither 0 nor 1"
NO_ANSWER = "preferred_output is not one assistant message"
NO_TOOL = "is no tool of the form {type: function, function: {name, description, parameters}}"
HEBREW = "\u05e9\u05dc\u05d5\u05dd \u202e\U0001f98a"


def message(**fields: Any) -> dict[str, Any]:
    return {"messages": [fields, GOOD["messages"][1]]}


def turns(*each: tuple[str, str], **fields: Any) -> dict[str, Any]:
    return {"conversations": [{"from": who, "value": what} for who, what in each], **fields}


@pytest.mark.parametrize(
    ("line", "field", "reason"),
    [
        (b"{not json", "", "not JSON"),
        ([GOOD], "", "not a JSON object"),
        (b"null", "", "not a JSON object"),
        ({"prompt": "Hi"}, "messages", "no list of messages"),
        ({"messages": "Hi"}, "messages", "no list of messages"),
        ({"messages": ["Hi"]}, "messages[0]", "message is not an object"),
        (message(role=["user"], content="x"), "messages[0].role", NO_ROLE),
        (message(content="x"), "messages[0].role", NO_ROLE),
        (message(role="user"), "messages[0].content", "content is not a string"),
        (message(role="user", content=[{"type": "text"}]), "messages[0].content", PARTS),
        (message(role="function", content="x"), "messages[0].role", OLD_CALLS),
        (message(role="assistant", function_call={"a": 1}), "messages[0].function_call", OLD_CALLS),
        ({**GOOD, "functions": [{}]}, "functions", OLD_CALLS),
        (message(role="user", content="x", tool_calls=[{}]), "messages[0].tool_calls", MORE),
        (message(role="user", content="x", weight=0), "messages[0].weight", MORE),
        (message(role="assistant", content="x", weight=0.5), "messages[0].weight", NO_WEIGHT),
        (message(role="assistant", content="x", weight=True), "messages[0].weight", NO_WEIGHT),
    ],
)
def test_a_bad_row_is_a_reject_and_the_others_go_on(
    write_jsonl: WriteJsonl, tmp_path: Path, line: Any, field: str, reason: str
) -> None:
    write_jsonl([GOOD, line, GOOD])
    before, reject, after = read(tmp_path, "rows.jsonl")
    assert (before.line, after.line) == (1, 3)
    assert isinstance(reject, Reject)
    assert (reject.source, reject.line, reject.field, reject.reason) == ("rows.jsonl", 2, field, reason)


@pytest.mark.parametrize(
    ("form", "record", "expected"),
    [
        ("messages", message(role="user", content=HEBREW, name=None), [("user", HEBREW)]),
        ("messages", {**GOOD, "tools": None}, [("user", "Hi")]),
        ("alpaca", {"instruction": "Hi", "output": "Hello."}, [("user", "Hi")]),
        ("alpaca", {"instruction": "Hi", "input": "", "output": "Hello."}, [("user", "Hi")]),
        ("alpaca", {"instruction": "Add", "input": "1, 2", "output": "Hello."}, [("user", "Add\n\n1, 2")]),
        (
            "alpaca",
            {"instruction": "Hi", "output": "Hello.", "system": "Be kind.", "history": []},
            [("system", "Be kind."), ("user", "Hi")],
        ),
        ("prompt_completion", {"prompt": " Hi ", "completion": "Hello."}, [("user", " Hi ")]),
        ("sharegpt", turns(("human", "Hi"), ("gpt", "Hello.")), [("user", "Hi")]),
        (
            "sharegpt",
            turns(("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello.")),
            [("system", "Be kind."), ("user", "Hi")],
        ),
    ],
)
def test_each_format_is_recognised_and_becomes_a_conversation(
    write_jsonl: WriteJsonl, tmp_path: Path, form: str, record: dict[str, Any], expected: Any
) -> None:
    write_jsonl([{**record, "topic": "greeting"}])
    (found,) = read_rows(tmp_path, "rows.jsonl", split={"group_by": "topic"})
    assert said(found) == [*expected, ("assistant", "Hello.")]
    assert set(found.meta) - {"tools"} == {"topic"}
    (pinned,) = read_rows(tmp_path, "rows.jsonl", split={"group_by": "topic"}, format=form)
    assert pinned == found


@pytest.mark.parametrize(
    ("form", "record", "field", "reason"),
    [
        ("alpaca", {"output": "x"}, "instruction", "no 'instruction'"),
        ("alpaca", {"instruction": "x", "output": None}, "output", "no 'output'"),
        ("alpaca", {"instruction": "x", "input": 3, "output": "x"}, "input", "'input' is not a string"),
        (
            "alpaca",
            {"instruction": "x", "output": "x", "history": [["a", "b"]]},
            "history",
            "has earlier turns, which only messages and sharegpt can tell",
        ),
        ("prompt_completion", {"prompt": [GOOD], "completion": "x"}, "prompt", "'prompt' is not a string"),
        ("prompt_completion", GOOD, "prompt", "no 'prompt'"),
        ("sharegpt", GOOD, "conversations", "no list of conversations"),
        (
            "sharegpt",
            turns(("robot", "x")),
            "conversations[0].from",
            "role is none of system, human, user, gpt, assistant",
        ),
        ("sharegpt", turns(("human", "x"), ("observation", "x")), "conversations[1].from", USES_TOOLS),
        ("sharegpt", turns(("human", "x"), tools="[...]"), "tools", USES_TOOLS),
        (
            "sharegpt",
            {"conversations": [{"from": "human", "value": 3}]},
            "conversations[0].value",
            "content is not a string",
        ),
    ],
)
def test_a_row_that_does_not_fit_a_pinned_format_is_a_reject(
    write_jsonl: WriteJsonl, tmp_path: Path, form: str, record: dict[str, Any], field: str, reason: str
) -> None:
    write_jsonl([record])
    (reject,) = read(tmp_path, "rows.jsonl", format=form)
    assert isinstance(reject, Reject)
    assert (reject.field, reject.reason) == (field, reason)


def test_most_of_the_first_good_rows_decide_the_format(write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    pair = {"prompt": "Hi", "completion": "Hello."}
    write_jsonl([b"broken", {"other": 1}, pair, GOOD, GOOD, *[pair] * 7, *[GOOD] * 9])
    items = read(tmp_path, "rows.jsonl")
    assert [item.line for item in items if not isinstance(item, Reject)] == [3, *range(6, 13)]
    assert [item.line for item in items] == list(range(1, 22)), "none is lost, none is told twice"


COLUMNS = {"system": "{{Topic}}: {topic}", "user": "{title}\n{the question}", "assistant": "{answer}"}
RECORD = {"topic": "greeting", "title": "T", "the question": "{q}?", "answer": "A."}


def test_columns_of_ones_own_become_a_conversation(write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    write_jsonl([RECORD])
    (row,) = read_rows(
        tmp_path, "rows.jsonl", columns=COLUMNS, system="Never said.", split={"group_by": "topic"}
    )
    assert said(row) == [
        ("system", "{Topic}: greeting"),
        ("user", "T\n{q}?"),
        ("assistant", "A."),
    ]
    assert row.meta == RECORD


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer": None}, "no 'answer'"),
        ({"title": 3}, "'title' is not a string"),
        ({"topic": []}, "'topic' is not a string"),
    ],
)
def test_a_row_without_the_text_of_a_column_is_a_reject(
    write_jsonl: WriteJsonl, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    write_jsonl([RECORD, {**RECORD, **change}])
    _, reject = read(tmp_path, "rows.jsonl", columns=COLUMNS)
    assert isinstance(reject, Reject)
    assert (reject.field, reject.reason) == (*change, reason)


USER, ASSISTANT = GOOD["messages"]
CONTEXT = {**ASSISTANT, "weight": 0}


@pytest.mark.parametrize(
    ("given", "read_as"),
    [
        ([USER, {**ASSISTANT, "weight": 1}], [USER, ASSISTANT]),
        ([USER, CONTEXT, USER, ASSISTANT], [USER, CONTEXT, USER, ASSISTANT]),
        ([USER, ASSISTANT, USER, CONTEXT], [USER, ASSISTANT]),
        ([USER, CONTEXT], [USER, CONTEXT]),
    ],
    ids=["1 is what no weight says", "context", "an end that is not learnt is cut", "nothing to learn"],
)
def test_a_turn_of_weight_0_is_context(
    write_jsonl: WriteJsonl, tmp_path: Path, given: list[Any], read_as: list[Any]
) -> None:
    write_jsonl([{"messages": given}])
    (row,) = read_rows(tmp_path, "rows.jsonl")
    assert list(row.messages) == read_as


def preference(**fields: Any) -> dict[str, Any]:
    worse = {"role": "assistant", "content": "Go away."}
    asked = {"messages": [USER, ASSISTANT, USER], "parallel_tool_calls": False}
    return {"input": asked, "preferred_output": [ASSISTANT], "non_preferred_output": [worse], **fields}


def test_the_preferred_answer_is_the_one_to_learn(write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    write_jsonl([preference(topic="greeting")])
    (found,) = read_rows(tmp_path, "rows.jsonl", split={"group_by": "topic"})
    assert found.messages == (USER, CONTEXT, USER, ASSISTANT)
    assert found.meta == {
        "topic": "greeting",
        "parallel_tool_calls": False,
        "non_preferred_output": [{"role": "assistant", "content": "Go away."}],
    }
    (pinned,) = read_rows(tmp_path, "rows.jsonl", split={"group_by": "topic"}, format="preference")
    assert pinned == found


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"input": "Hi"}, "input", "no object 'input'"),
        ({"input": {}}, "input.messages", "no list of messages"),
        ({"input": {"messages": [{"role": "user"}]}}, "input.messages[0].content", "content is not a string"),
        ({"input": {"messages": [USER], "tools": [{}]}}, "input.tools[0]", NO_TOOL),
        ({"preferred_output": []}, "preferred_output", NO_ANSWER),
        ({"preferred_output": [USER]}, "preferred_output", NO_ANSWER),
        (
            {"preferred_output": [CONTEXT]},
            "preferred_output",
            NO_ANSWER,
        ),
        ({"non_preferred_output": "Hi"}, "non_preferred_output", "no list of non_preferred_output"),
    ],
)
def test_a_preference_that_is_none_is_a_reject(
    write_jsonl: WriteJsonl, tmp_path: Path, fields: dict[str, Any], field: str, reason: str
) -> None:
    write_jsonl([preference(), preference(**fields)])
    _, reject = read(tmp_path, "rows.jsonl")
    assert isinstance(reject, Reject)
    assert (reject.field, reject.reason) == (field, reason)
