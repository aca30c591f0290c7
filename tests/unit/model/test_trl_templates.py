"""Masks by prefix on the real chat templates that TRL ships, against those that its authors marked by hand.

Beside each template lies a training variant with `{% generation %}` marks. Where the marks reach into what a
served model is given as its prompt, or past its end-of-turn token, ours must be theirs without that.
"""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trl
from transformers import PreTrainedTokenizerFast

from tunebook_model.conversation import Message
from tunebook_model.render import Rendered, Renderer
from tunebook_spec.errors import DataError

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
NAMES = sorted(path.name.removesuffix("_training.jinja") for path in TEMPLATES.glob("*_training.jinja"))

CONVERSATIONS: dict[str, list[Message]] = {
    "single": [
        {"role": "user", "content": "What does BP mean?"},
        {"role": "assistant", "content": "Blood pressure."},
    ],
    "multi": [
        {"role": "user", "content": "What does BP mean?"},
        {"role": "assistant", "content": "Blood pressure.\n\n1. It is measured."},
        {"role": "user", "content": "And HR?"},
        {"role": "assistant", "content": "Heart rate."},
    ],
}
CONVERSATIONS["system"] = [{"role": "system", "content": "Answer as a nurse would."}, *CONVERSATIONS["multi"]]
EVERY = tuple(CONVERSATIONS)
MANY_TURNS = ("multi", "system")

IMAGES = "reads content as a list of text and image parts and drops plain text"
OPENS_THINKING = "prompts with `<think>`, which its rendered answers never contain"
DROPS_THINKING = "writes an empty thinking block into the last turn alone"
REFUSED: dict[str, tuple[tuple[str, ...], str, str]] = {
    "deepseek_r1_distill": (EVERY, OPENS_THINKING, "prompt goes on with '<think>"),
    "deepseekv3": (EVERY, OPENS_THINKING, "prompt goes on with '<think>"),
    "idefics3": (EVERY, IMAGES, "leaves out text of message 1"),
    "llava_next": (EVERY, IMAGES, "has no attribute 'text'"),
    "smolvlm": (EVERY, IMAGES, "leaves out text of message 1"),
    "gemma": (("system",), "has no system role", "System role not supported"),
    "gptoss": (
        MANY_TURNS,
        "ends an earlier turn by <|end|>, on which generation does not stop",
        "turn 1 of 2",
    ),
    "qwen3": (MANY_TURNS, DROPS_THINKING, "turn 1 of 2"),
    "qwen3_5_nothink": (MANY_TURNS, DROPS_THINKING, "turn 1 of 2"),
    "qwen3_5_think": (MANY_TURNS, DROPS_THINKING, "turn 1 of 2"),
    "qwen3_6": (MANY_TURNS, DROPS_THINKING, "turn 1 of 2"),
}
"""Template: which conversations, why, and what the error says."""

USABLE = [name for name in NAMES if name not in REFUSED or REFUSED[name][0] != EVERY]

MARKED_PROMPT = {
    "gptoss": "the marks cover `<|start|>assistant`",
    "muse_glimmer": "the marks cover `<|start|>assistant`",
    "nemotron_3_5_lightning": "the marks cover the prompt's empty thinking block",
    "nemotron_3_nano": "the marks cover the prompt's empty thinking block",
    "nemotron_3_super": "the marks cover the prompt's empty thinking block",
    "nemotron_3_ultra": "the marks cover the prompt's empty thinking block",
    "qwen2_5": "the marks cover the newline after `assistant`",
    "qwen3_5_nothink": "the marks cover the prompt's empty thinking block",
    "qwen3_5_think": "the marks cover the prompt's `<think>`",
    "qwen3_6": "the marks cover the prompt's `<think>`",
    "qwen3_8": "the marks cover the prompt's empty thinking block",
}
KWARGS: dict[str, dict[str, str | bool]] = {
    "muse_glimmer": {"current_date": "2026-01-04"},
    "nemotron_3_5_lightning": {"enable_thinking": False},
    "nemotron_3_nano": {"enable_thinking": False},
    "nemotron_3_super": {"enable_thinking": False},
    "nemotron_3_ultra": {"enable_thinking": False},
    "qwen3_8": {"enable_thinking": False},
}
END_OF_TURN = {
    "cohere": "<|END_OF_TURN_TOKEN|>",
    "cohere2": "<|END_OF_TURN_TOKEN|>",
    "diffusion_gemma": "<turn|>",
    "gemma": "<end_of_turn>",
    "gemma3": "<end_of_turn>",
    "glm4moe": "<|user|>",
    "gptoss": "<|return|>",
    "llama3": "<|eot_id|>",
    "muse_glimmer": "<|eot|>",
    "phi3": "<|end|>",
    "phi3_5": "<|end|>",
}
"""Elsewhere `<|im_end|>`; templates that are always refused need none."""


def read(name: str) -> str:
    # The cure that our error names for a template that prints the date and takes no argument for it.
    text = (TEMPLATES / f"{name}.jinja").read_text()
    return text.replace('strftime_now("%Y-%m-%d")', '"2026-01-04"')


def tokenizer_for(text: str, make_tokenizer: Any) -> PreTrainedTokenizerFast:
    """One that knows every control token of some templates."""
    control = sorted(set(re.findall(r"<\|[^<>\s|]+\|?>|<[a-z_]+\|?>|</[a-z_]+>|\[/?[A-Z]+\]", text)))
    trained: PreTrainedTokenizerFast = make_tokenizer(
        special=("<s>", "<|im_end|>", *control, "<|endoftext|>")
    )
    return trained


@pytest.fixture(scope="module")
def tokenizer(make_tokenizer: Any) -> PreTrainedTokenizerFast:
    return tokenizer_for("".join(map(read, NAMES)), make_tokenizer)


def renderer(tokenizer: PreTrainedTokenizerFast, name: str, template: str) -> Renderer:
    stop: int = tokenizer.convert_tokens_to_ids(END_OF_TURN.get(name, "<|im_end|>"))
    tokenizer.chat_template = read(template)
    return Renderer(tokenizer, frozenset([stop]), KWARGS.get(name, {}))


def spans(rendered: Rendered, end_of_turn: frozenset[int]) -> list[list[int]]:
    """The supervised tokens, turn by turn, each up to its first end-of-turn token."""
    pairs = zip(rendered.input_ids, rendered.loss_mask, strict=True)
    runs = [[i for i, _ in run] for on, run in groupby(pairs, key=lambda pair: pair[1]) if on]
    return [run[: next(k for k, i in enumerate(run) if i in end_of_turn) + 1] for run in runs]


def marked(tokenizer: PreTrainedTokenizerFast, messages: list[Message], name: str) -> Rendered:
    out = tokenizer.apply_chat_template(
        messages,
        chat_template=read(f"{name}_training"),
        return_dict=True,
        return_assistant_tokens_mask=True,
        **KWARGS.get(name, {}),
    )
    return Rendered(np.array(out["input_ids"]), np.array(out["assistant_masks"], np.bool_))


@pytest.mark.parametrize("conversation", EVERY)
@pytest.mark.parametrize("name", NAMES)
def test_a_template_gives_the_mask_that_its_training_variant_marks(
    tokenizer: PreTrainedTokenizerFast, name: str, conversation: str
) -> None:
    messages = CONVERSATIONS[conversation]
    ours = renderer(tokenizer, name, name)
    conversations, _, says = REFUSED.get(name, ((), "", ""))
    if conversation in conversations:
        with pytest.raises(DataError, match=re.escape(says)):
            ours.render(messages)
        return
    rendered = ours.render(messages)
    assert ours.audit(rendered) is None
    mine = spans(rendered, ours.end_of_turn)
    assert sum(map(len, mine)) == sum(rendered.loss_mask)  # nothing after an end-of-turn token
    theirs = spans(marked(tokenizer, messages, name), ours.end_of_turn)
    prompt = tokenizer.decode(ours.prompt_ids(messages[:-1]))
    assert len(mine) == len(theirs)
    for my_turn, their_turn in zip(mine, theirs, strict=True):
        if name in MARKED_PROMPT:
            surplus = tokenizer.decode(their_turn).removesuffix(tokenizer.decode(my_turn))
            assert surplus
            assert prompt.endswith(surplus)
        else:
            assert my_turn == their_turn


@pytest.mark.parametrize("name", USABLE)
def test_the_last_turn_alone_can_be_supervised_where_an_earlier_one_is_refused(
    tokenizer: PreTrainedTokenizerFast, name: str
) -> None:
    ours = renderer(tokenizer, name, name)
    rendered = ours.render(CONVERSATIONS["multi"], supervise="last")
    prompt = ours.prompt_ids(CONVERSATIONS["multi"][:-1])
    assert rendered.input_ids[: len(prompt)].tolist() == prompt
    assert not any(rendered.loss_mask[: len(prompt)])
    assert "Heart rate." in tokenizer.decode(rendered.input_ids[len(prompt) :])
    assert ours.audit(rendered) is None


@pytest.mark.parametrize("name", USABLE)
def test_marks_and_prefixes_give_one_mask_on_a_training_variant(
    tokenizer: PreTrainedTokenizerFast, name: str
) -> None:
    messages = CONVERSATIONS["single"]
    plain = renderer(tokenizer, name, name).render(messages)
    by_marks = renderer(tokenizer, name, f"{name}_training")
    if name in {"qwen3_5_think", "qwen3_6"}:  # the marks sit on tokens that no served model can produce
        with pytest.raises(DataError, match="share a token"):
            by_marks.render(messages)
    else:
        assert spans(by_marks.render(messages), by_marks.end_of_turn) == spans(plain, by_marks.end_of_turn)
