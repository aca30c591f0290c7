from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unit.data.preparing import prepared
from tests.unit.data.reading import read, read_rows
from tests.unit.model.test_trl_templates import TEMPLATES
from tunebook_data.card_page import write_page
from tunebook_data.checks import find_fault, render_or_fault
from tunebook_data.contract import check_contract, read_probes
from tunebook_data.manifest import DatasetManifest
from tunebook_data.personal_data import mask_row
from tunebook_data.rejects import Reject
from tunebook_data.rows import read_rows as read_prepared
from tunebook_data.tokens import TokenTable
from tunebook_inference.generator import ChatRequest
from tunebook_inference.kept_answers import KeptAnswers
from tunebook_inference.scripted import ScriptedGenerator
from tunebook_inference.supporting import SupportingModel
from tunebook_model.render import Renderer
from tunebook_spec.data import Checks
from tunebook_spec.errors import DataError

WriteJsonl = Callable[..., Path]

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"parameters": SCHEMA, "name": "get_weather", "description": "Weather of a town."}
TOOLS = [{"type": "function", "function": WEATHER}]
NO_TOOL = "is no tool of the form {type: function, function: {name, description, parameters}}"
NO_CALL = "is no call of the form {id, type: function, function: {name, arguments}}"
NO_ARGUMENTS = "arguments are no JSON object written as text"


def call(arguments: Any = '{"city":"Oslo"}', id: Any = "call1", name: Any = "get_weather") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def user(text: str = "Weather in Oslo?") -> dict[str, Any]:
    return {"role": "user", "content": text}


def calls(*each: Any, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(each), **fields}


def told(id: str = "call1", text: str = "5 degrees") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id, "content": text}


def says(text: str = "It is 5 degrees.") -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def record(*messages: dict[str, Any], tools: Any = TOOLS, **fields: Any) -> dict[str, Any]:
    return {"messages": list(messages), "tools": tools, **fields}


WHOLE = record(user(), calls(call()), told(), says())


def test_a_row_keeps_its_tools_calls_and_answers(write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    write_jsonl([{**WHOLE, "parallel_tool_calls": False}])
    (row,) = read_rows(tmp_path, "rows.jsonl")
    # Spelled as vLLM's server spells them, in this order of keys.
    assert orjson.dumps(row.tools) == orjson.dumps(
        [
            {
                "type": "function",
                "function": {
                    "name": "get_weather",
                    "description": "Weather of a town.",
                    "parameters": SCHEMA,
                },
            }
        ]
    )
    assert row.messages == (user(), {**calls(call('{"city": "Oslo"}')), "content": ""}, told(), says())
    assert row.meta == {"parallel_tool_calls": False}
    assert find_fault(row, Checks()) is None


def test_a_missing_description_is_the_null_that_a_server_shows(
    write_jsonl: WriteJsonl, tmp_path: Path
) -> None:
    tools = [{"type": "function", "function": {"name": "now", "strict": True}}]
    write_jsonl([record(user(), says(), tools=tools)])
    (row,) = read_rows(tmp_path, "rows.jsonl")
    assert row.tools[0]["function"] == {
        "name": "now",
        "description": None,
        "parameters": None,
        "strict": True,
    }


def test_tables_write_tools_as_json_text(tmp_path: Path) -> None:
    messages = [{key: None, **each} for each in WHOLE["messages"] for key in ("tool_call_id",)]
    columns = {"messages": pa.array([messages]), "tools": pa.array([orjson.dumps(TOOLS).decode()])}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    (row,) = read_rows(tmp_path, "rows.parquet")
    assert row.tools[0]["function"]["name"] == "get_weather"
    assert row.messages[1]["tool_calls"][0]["function"]["arguments"] == '{"city": "Oslo"}'


@pytest.mark.parametrize(
    ("bad", "field", "reason"),
    [
        ({"tools": "{"}, "tools", "tools is text and not JSON"),
        ({"tools": {}}, "tools", "tools is not a list"),
        ({"tools": [{"type": "retrieval"}]}, "tools[0]", NO_TOOL),
        ({"tools": [*TOOLS, {"type": "function", "function": {}}]}, "tools[1]", NO_TOOL),
        (
            {"tools": [{"function": {"name": "f", "parameters": {"properties": {"a": None}}}}]},
            "tools[0].function.parameters",
            "parameters is no JSON Schema",
        ),
        ({"tools": [*TOOLS, *TOOLS]}, "tools", "two tools have one name"),
    ],
)
def test_tools_that_are_none_reject_their_row(
    write_jsonl: WriteJsonl, tmp_path: Path, bad: dict[str, Any], field: str, reason: str
) -> None:
    write_jsonl([WHOLE, {**WHOLE, **bad}])
    _, reject = read(tmp_path, "rows.jsonl")
    assert isinstance(reject, Reject)
    assert (reject.line, reject.field, reject.reason) == (2, field, reason)


def test_a_turn_may_hold_calls_and_no_content_at_all(write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    turn = calls(call())
    del turn["content"]
    write_jsonl([record(user(), turn)])
    (row,) = read_rows(tmp_path, "rows.jsonl")
    assert row.messages[-1] == {**calls(call('{"city": "Oslo"}')), "content": ""}


@pytest.mark.parametrize(
    ("turn", "field", "reason"),
    [
        (calls(call(), "x"), "[1]", NO_CALL),
        (calls({**call(), "type": "custom"}), "[0]", NO_CALL),
        (calls(call(name="")), "[0]", NO_CALL),
        (calls(call(id=None)), "[0]", NO_CALL),
        (calls(call("{'city': 1}")), "[0].function.arguments", NO_ARGUMENTS),
        (calls(call("[1]")), "[0].function.arguments", NO_ARGUMENTS),
        (calls(call({"city": "Oslo"})), "[0].function.arguments", NO_ARGUMENTS),
        (calls(call(), call()), "[1].id", "two calls of one turn have one id"),
    ],
)
def test_a_call_that_is_none_rejects_its_row(
    write_jsonl: WriteJsonl, tmp_path: Path, turn: dict[str, Any], field: str, reason: str
) -> None:
    write_jsonl([record(user(), turn)])
    (reject,) = read(tmp_path, "rows.jsonl")
    assert isinstance(reject, Reject)
    assert (reject.field, reject.reason) == (f"messages[1].tool_calls{field}", reason)


@pytest.mark.parametrize(
    ("messages", "field", "reason"),
    [
        ([calls(call()), user(), says()], "messages[2].role", "a call has no tool message"),
        ([calls(call()), says()], "messages[2].role", "a call has no tool message"),
        (
            [calls(call(), call(id="call2")), told("call2"), says()],
            "messages[3].role",
            "a call has no tool message",
        ),
        ([calls(call()), told("call2"), says()], "messages[2].tool_call_id", "tool_call_id is none"),
        ([calls(call()), told(), told(), says()], "messages[3].tool_call_id", "tool_call_id is none"),
        ([says(), told(), says()], "messages[2].tool_call_id", "tool_call_id is none"),
        ([calls(call()), told(), user(), says()], "messages[3].role", "roles do not alternate"),
        ([calls(call()), told()], "messages[2].role", "the last message is not the assistant's"),
        ([calls(call(name="get_time"))], "messages[1].tool_calls[0].function.name", "calls a function that"),
        ([calls(call(), weight=0)], "messages", "every assistant turn has weight 0"),
    ],
)
def test_calls_and_answers_must_match(
    write_jsonl: WriteJsonl, tmp_path: Path, messages: list[Any], field: str, reason: str
) -> None:
    write_jsonl([record(user(), *messages)])
    (row,) = read_rows(tmp_path, "rows.jsonl")
    fault = find_fault(row, Checks())
    assert fault is not None
    assert fault.field == field
    assert reason in fault.reason


def test_what_is_called_and_what_may_be_called_tell_rows_apart_and_ids_do_not(
    write_jsonl: WriteJsonl, tmp_path: Path
) -> None:
    other_tool = [{"type": "function", "function": {**WEATHER, "description": "Else."}}]
    write_jsonl(
        [
            WHOLE,
            record(user(), calls(call('{ "city" : "Oslo" }', id="x")), told("x"), says()),
            record(user(), calls(call('{"city":"Bergen"}')), told(), says()),
            record(user(), calls(call(), weight=0), told(), says()),
            record(*WHOLE["messages"], tools=other_tool),
        ]
    )
    first, same, *others = read_rows(tmp_path, "rows.jsonl")
    assert first.id == same.id
    assert len({first.id, *(row.id for row in others)}) == 4


def test_the_oldest_turn_goes_with_its_calls(
    write_jsonl: WriteJsonl, tmp_path: Path, tools_llama: Path
) -> None:
    renderer = Renderer.load(tools_llama, {"date_string": "26 Jul 2024"})
    write_jsonl([record(*WHOLE["messages"], user("And Bergen?"), calls(call()))])
    (row,) = read_rows(tmp_path, "rows.jsonl")
    length = len(renderer.render(row.messages, tools=row.tools).input_ids)
    cut = render_or_fault(row, renderer, Checks(max_tokens=length - 1, on_too_long="truncate_left"))
    assert isinstance(cut, tuple)
    assert cut[0] == replace(row, messages=row.messages[-2:])


def test_personal_data_in_arguments_is_masked_and_they_stay_json(
    write_jsonl: WriteJsonl, tmp_path: Path
) -> None:
    arguments = '{"mail": "jo\\u0040corp.org", "card": 4111111111111111, "note": "plain"}'
    write_jsonl([record(user(), calls(call(arguments)))])
    (row,) = read_rows(tmp_path, "rows.jsonl")
    masked, flags = mask_row(row)
    (found,) = masked.messages[1]["tool_calls"]
    assert orjson.loads(found["function"]["arguments"]) == {
        "mail": "[EMAIL]",
        "card": "[CREDIT_CARD]",
        "note": "plain",
    }
    assert [flag.reason for flag in flags] == ["masked email", "masked credit_card"]


@pytest.fixture(scope="module")
def tools_llama(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama with the chat template of Llama 3.1, which knows tools."""
    folder = shutil.copytree(tiny_llama, tmp_path_factory.mktemp("models") / "tools")
    shutil.copy(TEMPLATES / "llama3_1.jinja", folder / "chat_template.jinja")
    return folder


def run(
    folder: Path, model_dir: Path, teacher: SupportingModel | None = None, **data: Any
) -> DatasetManifest:
    source = {"kind": "file", "path": "rows.jsonl", "task": "chat", "split": {"test": 0.2, "validation": 0}}
    return prepared(
        folder,
        model_dir,
        {"sources": [source], **data},
        inputs={"chat_template_kwargs": {"date_string": "26 Jul 2024"}},
        models={"t": teacher} if teacher else {},
    )


def test_no_teacher_sees_a_row_with_tools(write_jsonl: WriteJsonl, tmp_path: Path, tools_llama: Path) -> None:
    plain = [{"messages": [user(f"Why is it {n}?"), says(f"Since it was {n} before.")]} for n in range(20)]
    told_to = [
        record(user(f"Weather in {n}?"), calls(call()), told(), says(f"{n} degrees, I read."))
        for n in range(20)
    ]
    prompts = [{"messages": [user("Who asks?")]}, record(user("Weather in Ulm?"))]
    write_jsonl([*plain, *told_to, *prompts])
    seen: list[str] = []

    def answers(request: ChatRequest) -> str:
        seen.append(orjson.dumps(request.messages).decode())
        assert {key for message in request.messages for key in message} == {"role", "content"}
        if request.json_schema is None:
            return "Nobody that I know of."
        return orjson.dumps({"variations": [[{"user": f"q{len(seen)}?", "assistant": "As ever."}]]}).decode()

    kept = KeptAnswers(tmp_path / "answers.sqlite")
    teacher = SupportingModel("t", "scripted", ScriptedGenerator(answers), kept)
    augment, distill = {"teacher": "t", "variations": 1}, {"teacher": "t", "shots": 16}
    manifest = run(tmp_path, tools_llama, teacher, augment=augment, distill=distill)
    assert manifest.augment is not None
    assert manifest.distill is not None
    train = read_prepared(tmp_path / "out" / "train.jsonl")
    assert manifest.augment.uses_tools == sum(bool(row.tools) for row in train) > 0
    assert (manifest.distill.uses_tools, manifest.distill.kept) == (1, 1)
    assert manifest.augment.asked + manifest.augment.uses_tools == manifest.sources[0].train
    assert not any("Weather" in each for each in seen)


def test_prepare_trains_on_the_calls_and_gives_them_to_whoever_asks(
    write_jsonl: WriteJsonl, tmp_path: Path, tools_llama: Path
) -> None:
    def asked(n: int) -> list[dict[str, Any]]:
        town = call(f'{{"city": "Town {n}"}}')
        if n % 2:
            return [user(f"Weather in {n}?"), calls(town)]
        return [user(f"Weather in {n}?"), calls(town, weight=0), told(), says(f"It is {n} degrees.")]

    write_jsonl([record(*asked(n)) for n in range(20)])
    manifest = run(tmp_path, tools_llama)
    assert manifest.splits["train"].rows == 16
    renderer = Renderer.load(tools_llama, {"date_string": "26 Jul 2024"})
    rows, table = (
        read_prepared(tmp_path / "out" / "train.jsonl"),
        TokenTable.open(tmp_path / "out" / "train.tokens.arrow"),
    )
    for i, row in enumerate(rows):
        taught = renderer.tokenizer.decode(table.input_ids(i)[table.loss_mask(i)])
        number = row.messages[0]["content"].split()[-1].rstrip("?")
        spoken = f'{{"name": "get_weather", "parameters": {{"city": "Town {number}"}}}}'
        wanted = spoken if int(number) % 2 else f"It is {number} degrees."
        assert row.reference == wanted
        assert taught == f"{wanted}<|eot_id|>"
        assert row.tools[0]["function"]["name"] == "get_weather"
    probes = read_probes(tmp_path / "out" / "probes.jsonl")
    check_contract(probes, renderer.prompt_ids)
    assert all(probe.tools for probe in probes)
    write_page(tmp_path / "out")
    assert "get_weather" in re.sub(r"<.*?>", "", (tmp_path / "out" / "card.html").read_text())


def test_a_base_that_never_shows_tools_ends_the_run(
    write_jsonl: WriteJsonl, tmp_path: Path, tiny_llama: Path
) -> None:
    plain = [{"messages": [user(f"Why {n}?"), says(f"Because of {n}.")]} for n in range(20)]
    write_jsonl([*plain, WHOLE])
    with pytest.raises(DataError, match=r"rows\.jsonl:21: has tools, .* ignores them: .*take a base whose"):
        run(tmp_path, tiny_llama)


def test_preferences_say_what_is_trained_on(
    write_jsonl: WriteJsonl, tmp_path: Path, tools_llama: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_jsonl(
        [
            {
                "input": {"messages": [user(f"Weather in {n}?")], "tools": TOOLS},
                "preferred_output": [says(f"It is {n} degrees.")],
                "non_preferred_output": [says("Who cares?")],
            }
            for n in range(20)
        ]
    )
    caplog.set_level("INFO")
    (file,) = run(tmp_path, tools_llama).sources[0].files
    note = "trains on preferred_output; non_preferred_output is kept, not trained on: that takes"
    note += " method.objective dpo"
    assert (file.format, file.note) == ("preference", note)
    assert f"format preference: {note}" in caplog.text
    rows = read_prepared(tmp_path / "out" / "train.jsonl")
    assert all(row.reference.startswith("It is ") for row in rows)
    assert all(row.meta["non_preferred_output"] == [says("Who cares?")] for row in rows)
