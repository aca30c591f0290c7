"""Tools, calls and their answers on the real chat templates that TRL ships."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from tests.unit.model.test_trl_templates import END_OF_TURN, KWARGS, TEMPLATES, read, spans, tokenizer_for
from tunebook_model.conversation import Message, ToolCall, normal_tool
from tunebook_model.render import Rendered, Renderer
from tunebook_spec.errors import DataError

NAMES = sorted(path.stem for path in TEMPLATES.glob("*.jinja") if not path.stem.endswith("_training"))
STOPS = {
    **{name: (token,) for name, token in END_OF_TURN.items()},
    **dict.fromkeys(("llama3_1", "llama3_2"), ("<|eot_id|>",)),
    **dict.fromkeys(
        ("diffusion_gemma", "gemma4", "gemma4_v2", "gemma4_v3", "gemma4_v4", "gemma4_v5"),
        ("<turn|>", "<|tool_response>"),
    ),
    "gptoss": ("<|return|>", "<|call|>"),
    "glm4moe": ("<|user|>", "<|observation|>"),
}
"""As the generation configs of their models have it; elsewhere `<|im_end|>`."""

IGNORES = {
    "cohere",
    "cohere2",
    "deepseek_r1_distill",
    "deepseekv3",
    "gemma",
    "gemma3",
    "idefics3",
    "llama3",
    "phi3",
    "phi3_5",
    "qwen2_5_vl",
    "smolvlm",
}
SHOWS = [name for name in NAMES if name not in {*IGNORES, "llava_next"}]
REFUSED = {
    ("gptoss", "parallel"): "leaves out text of message 2",
    ("lfm2", "call"): "leaves out text of message 2",
    ("lfm2", "parallel"): "leaves out text of message 2",
    ("lfm2", "answer"): "leaves out text of message 2",
    ("llama3_1", "parallel"): "only supports single tool-calls",
    ("llama3_2", "parallel"): "only supports single tool-calls",
    ("qwen3", "answer"): "assistant turn 1 of 2 (message 2 of 4): the template renders this turn otherwise",
    ("qwen3_5_think", "answer"): "turn 1 of 2 (message 2 of 4): the template renders this turn otherwise",
    ("qwen3_6", "answer"): "turn 1 of 2 (message 2 of 4): the template renders this turn otherwise",
}

TOOLS = [
    normal_tool(
        {
            "name": "get_weather",
            "description": "Weather of a town.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        }
    )
]


def call(id: str, **arguments: str) -> ToolCall:
    return {
        "id": id,
        "type": "function",
        "function": {"name": "get_weather", "arguments": json.dumps(arguments)},
    }


ASKED: Message = {"role": "user", "content": "What is the weather in Oslo?"}
CALLED: Message = {"role": "assistant", "content": "", "tool_calls": [call("call00001", city="Oslo")]}
FOUND: Message = {"role": "tool", "content": '{"degrees": "five"}', "tool_call_id": "call00001"}
ANSWERED: Message = {"role": "assistant", "content": "It is five degrees."}
TWO_CALLS: Message = {
    "role": "assistant",
    "content": "",
    "tool_calls": [call("call00001", city="Oslo"), call("call00002", city='the "town"')],
}
CONVERSATIONS: dict[str, list[Message]] = {
    "call": [ASKED, CALLED],
    "parallel": [ASKED, TWO_CALLS],
    "answer": [ASKED, CALLED, FOUND, ANSWERED],
}


@pytest.fixture(scope="module")
def tokenizer(make_tokenizer: Any) -> PreTrainedTokenizerFast:
    return tokenizer_for("".join(map(read, NAMES)), make_tokenizer)


def renderer(tokenizer: PreTrainedTokenizerFast, name: str) -> Renderer:
    tokenizer.chat_template = read(name)
    stops = tokenizer.convert_tokens_to_ids(list(STOPS.get(name, ("<|im_end|>",))))
    pinned = {"date_string": "26 Jul 2024"} if name.startswith("llama3_") else KWARGS.get(name, {})
    return Renderer(tokenizer, frozenset(stops), pinned)


def supervised(tokenizer: PreTrainedTokenizerFast, rendered: Rendered) -> str:
    pairs = zip(rendered.input_ids, rendered.loss_mask, strict=True)
    return str(tokenizer.decode([i for i, on in pairs if on]))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "llava_next"])
def test_a_template_that_ignores_tools_is_told(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    assert renderer(tokenizer, name).shows_tools(TOOLS) == (name not in IGNORES)


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", SHOWS)
def test_calls_are_supervised_to_their_end_of_turn_and_the_tools_answers_are_not(
    tokenizer: PreTrainedTokenizerFast, name: str, conversation: str
) -> None:
    ours, messages = renderer(tokenizer, name), CONVERSATIONS[conversation]
    if (says := REFUSED.get((name, conversation))) is not None:
        with pytest.raises(DataError, match=re.escape(says)):
            ours.render(messages, tools=TOOLS)
        return
    rendered = ours.render(messages, tools=TOOLS)
    assert ours.audit(rendered) is None
    taught = supervised(tokenizer, rendered)
    towns = ["Oslo", "town"] if conversation == "parallel" else ["Oslo"]
    assert all(taught.count(town) == 1 for town in towns)
    assert "get_weather" in taught
    assert taught.count("It is five degrees.") == (conversation == "answer")
    assert "degrees" not in taught.replace("It is five degrees.", "")
    whole = tokenizer.decode(rendered.input_ids)
    assert "Weather of a town." in whole
    prompt = ours.prompt_ids(messages[:-1], TOOLS)
    assert rendered.input_ids[: len(prompt)].tolist() == prompt
    turns = spans(rendered, ours.end_of_turn)
    assert len(turns) == (2 if conversation == "answer" else 1)
    assert sum(map(len, turns)) == sum(rendered.loss_mask)


MARKED = ["lfm2_v2", "qwen3_instruct_2507", "qwen3_vl"]
"""Templates whose training variant marks calls, and nothing of the prompt with them."""


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", MARKED)
def test_the_mask_of_calls_is_what_the_training_variant_marks(
    tokenizer: PreTrainedTokenizerFast, name: str, conversation: str
) -> None:
    messages = CONVERSATIONS[conversation]
    plain = renderer(tokenizer, name).render(messages, tools=TOOLS)
    marked = renderer(tokenizer, f"{name}_training")
    assert spans(marked.render(messages, tools=TOOLS), marked.end_of_turn) == spans(plain, marked.end_of_turn)


@pytest.mark.parametrize("name", [name for name in SHOWS if name != "lfm2"])
def test_a_call_of_weight_0_is_context(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    ours = renderer(tokenizer, name)
    rendered = ours.render([ASKED, {**CALLED, "weight": 0}, FOUND, ANSWERED], tools=TOOLS)
    assert ours.audit(rendered) is None
    taught = supervised(tokenizer, rendered)
    assert "get_weather" not in taught
    assert "It is five degrees." in taught
    assert "Oslo" in tokenizer.decode(rendered.input_ids).partition("five")[0]


def test_a_last_call_is_told_as_the_model_speaks_it(tokenizer: PreTrainedTokenizerFast) -> None:
    ours = renderer(tokenizer, "llama3_1")
    rendered = ours.render(CONVERSATIONS["call"], tools=TOOLS)
    assert ours.last_answer(rendered) == '{"name": "get_weather", "parameters": {"city": "Oslo"}}'


def test_a_call_that_holds_an_end_of_turn_token_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    bad: Message = {"role": "assistant", "content": "", "tool_calls": [call("call00001", city="<|im_end|>")]}
    with pytest.raises(DataError, match=r"message 2 of 2: its text holds '<\|im_end\|>'"):
        renderer(tokenizer, "qwen2_5").render([ASKED, bad], tools=TOOLS)
