from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from tunebook_model.conversation import Message
from tunebook_model.render import Rendered, Renderer
from tunebook_spec.errors import DataError, ModelError

CHAT: list[Message] = [
    {"role": "system", "content": "Answer as a nurse would."},
    {"role": "user", "content": "What does BP mean?"},
    {"role": "assistant", "content": "Blood pressure."},
    {"role": "user", "content": "And HR?"},
    {"role": "assistant", "content": "Heart rate."},
]
MARKS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>\n"
    "{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def renderer(tokenizer: PreTrainedTokenizerFast, stop: str = "<|im_end|>", **kwargs: str | bool) -> Renderer:
    return Renderer(tokenizer, frozenset([tokenizer.convert_tokens_to_ids(stop)]), kwargs)


def supervised_text(tokenizer: PreTrainedTokenizerFast, rendered: Rendered) -> str:
    pairs = zip(rendered.input_ids, rendered.loss_mask, strict=True)
    return str(tokenizer.decode([i for i, on in pairs if on]))


def test_the_mask_covers_answers_and_their_end_of_turn_alone(make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer()
    rendered = renderer(tokenizer).render(CHAT)
    assert supervised_text(tokenizer, rendered) == "Blood pressure.<|im_end|>Heart rate.<|im_end|>"
    assert tokenizer.decode(rendered.input_ids) == tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert renderer(tokenizer).audit(rendered) is None


def test_the_last_turn_alone(make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer()
    rendered = renderer(tokenizer).render(CHAT, supervise="last")
    assert supervised_text(tokenizer, rendered) == "Heart rate.<|im_end|>"


def test_a_turn_of_weight_0_is_read_and_not_supervised(make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer()
    chat: list[Message] = [*CHAT[:2], {**CHAT[2], "weight": 0}, *CHAT[3:]]
    rendered = renderer(tokenizer).render(chat)
    assert rendered.input_ids.tolist() == renderer(tokenizer).render(CHAT).input_ids.tolist()
    assert supervised_text(tokenizer, rendered) == "Heart rate.<|im_end|>"


def test_the_prompt_is_what_rendered_ids_begin_with(make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer()
    prompt = renderer(tokenizer).prompt_ids(CHAT[:4])
    rendered = renderer(tokenizer).render(CHAT)
    assert rendered.input_ids[: len(prompt)].tolist() == prompt
    assert tokenizer.decode(prompt).endswith("And HR?<|im_end|>\n<|im_start|>assistant\n")


def test_marks_that_exclude_the_end_of_turn_token_are_extended(make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer(MARKS)
    rendered = renderer(tokenizer).render(CHAT)
    assert supervised_text(tokenizer, rendered) == "Blood pressure.<|im_end|>Heart rate.<|im_end|>"


def test_marks_that_begin_late_are_kept(make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer(
        MARKS.replace("{% generation %}{{ m.content }}", "Dr:{% generation %}{{ m.content }}")
    )
    rendered = renderer(tokenizer).render(CHAT, supervise="last")
    assert supervised_text(tokenizer, rendered) == "Heart rate.<|im_end|>"


def test_marks_that_leave_a_turn_out_are_refused(make_tokenizer: Any) -> None:
    first = MARKS.replace("{% if m.role == 'assistant' %}", "{% if m.content == 'Blood pressure.' %}")
    with pytest.raises(DataError, match=r"turn 2 of 2 \(message 5 of 5\): .*marks leave this turn out"):
        renderer(make_tokenizer(first)).render(CHAT)


def test_a_turn_that_later_turns_change_is_refused_by_name(make_tokenizer: Any) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if loop.last and m.role == 'assistant' %}"
        "<think>{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = make_tokenizer(template)
    with pytest.raises(DataError, match=r"assistant turn 1 of 2 \(message 3 of 5\): .*once others follow"):
        renderer(tokenizer).render(CHAT)
    rendered = renderer(tokenizer).render(CHAT, supervise="last")
    assert supervised_text(tokenizer, rendered) == "<think>Heart rate.<|im_end|>"


def test_an_answer_that_joins_its_prompt_in_one_token_is_tokenised_as_it_is_served(
    make_tokenizer: Any,
) -> None:
    tokenizer = make_tokenizer()
    chat: list[Message] = [CHAT[1], {"role": "assistant", "content": "\nBlood pressure."}]
    joined = tokenizer(tokenizer.apply_chat_template(chat, tokenize=False))["input_ids"]
    prompt = renderer(tokenizer).prompt_ids(chat[:1])
    assert joined[: len(prompt)] != prompt
    rendered = renderer(tokenizer).render(chat)
    assert rendered.input_ids[: len(prompt)].tolist() == prompt
    assert supervised_text(tokenizer, rendered) == "\nBlood pressure.<|im_end|>"


def test_a_joined_answer_is_refused_where_its_tokens_cannot_be_told_apart(make_tokenizer: Any) -> None:
    # This tokenizer writes a space before whatever it is given, so no text can be tokenised in two parts.
    tokenizer = make_tokenizer(pre_tokenizer=ByteLevel(add_prefix_space=True, use_regex=False))
    chat: list[Message] = [CHAT[1], {"role": "assistant", "content": "\nBlood pressure."}]
    with pytest.raises(DataError, match=r"turn 1 of 1 .*share a token"):
        renderer(tokenizer).render(chat)


def test_control_tokens_come_from_the_template_alone(make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer()
    before = renderer(tokenizer).render(CHAT).input_ids.tolist()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    assert tokenizer("Hello")["input_ids"][0] == 0
    assert renderer(tokenizer).render(CHAT).input_ids.tolist() == before


@pytest.mark.parametrize(
    ("chat", "reason"),
    [
        (CHAT[:2], "must be the assistant's answer"),
        ([], "must be the assistant's answer"),
        (CHAT[2:3], "nothing comes before it"),
        ([CHAT[1], {"role": "assistant", "content": "Blood<|im_end|>"}], "message 2 of 2: its text holds"),
    ],
    ids=["no answer", "no messages", "answer first", "end of turn inside"],
)
def test_a_conversation_that_cannot_be_learnt_from_is_refused(
    make_tokenizer: Any, chat: list[Message], reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        renderer(make_tokenizer()).render(chat)


def test_a_template_that_drops_text_is_refused(make_tokenizer: Any) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    chat: list[Message] = [CHAT[1], {"role": "assistant", "content": "<think>A unit?</think>Pressure."}]
    with pytest.raises(DataError, match=r"leaves out text of message 2 \(assistant\)"):
        renderer(make_tokenizer(template)).render(chat)


def test_an_end_of_turn_that_the_model_does_not_stop_on_is_refused(make_tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"no end-of-turn token \('<\|endoftext\|>'\)"):
        renderer(make_tokenizer(), stop="<|endoftext|>").render(CHAT)


def test_a_turn_that_the_next_message_ends_gets_that_token(make_tokenizer: Any) -> None:
    template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    tokenizer = make_tokenizer(template, special=("<|system|>", "<|user|>", "<|assistant|>"))
    rendered = renderer(tokenizer, stop="<|user|>").render(CHAT)
    assert supervised_text(tokenizer, rendered) == "Blood pressure.<|user|>Heart rate.<|user|>"


CLOCK = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ date_string }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write(folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template)


def test_a_template_that_reads_the_clock_is_refused_unless_its_argument_is_pinned(model_folder: Path) -> None:
    write(model_folder, CLOCK)
    with pytest.raises(ModelError, match=r"base_model\.chat_template_kwargs: \{date_string: 26 Jul 2024\}"):
        Renderer.load(model_folder, {})
    pinned = Renderer.load(model_folder, {"date_string": "26 Jul 2024"})
    assert pinned.tokenizer.decode(pinned.prompt_ids(CHAT[:1])).startswith("26 Jul 2024")


def test_a_clock_without_an_argument_names_the_other_way_out(model_folder: Path) -> None:
    write(model_folder, CLOCK.partition("endif %}")[2].replace("date_string", "strftime_now('%Y')"))
    with pytest.raises(ModelError, match=r"a chat_template\.jinja with a fixed date"):
        Renderer.load(model_folder, {"date_string": "26 Jul 2024"})


def test_the_end_of_turn_ids_come_from_the_generation_config(model_folder: Path) -> None:
    assert Renderer.load(model_folder, {}).end_of_turn == {0, 2}
    (model_folder / "generation_config.json").unlink()
    assert Renderer.load(model_folder, {}).end_of_turn == {2}
    (model_folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ModelError, match="no eos_token_id"):
        Renderer.load(model_folder, {})


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        ([0, 0, 0, 0, 0], "no token is supervised"),
        ([1, 1, 1, 1, 1], "every token is supervised"),
        ([0, 1, 1, 0, 0], "span 1 of 1 does not end in an end-of-turn token"),
        ([0, 1, 1, 1, 1], "span 1 of 1 goes on after an end-of-turn token"),
        ([0, 1, 1, 1], "5 tokens but 4 mask entries"),
        ([0, 1, 1, 1, 0], None),
    ],
    ids=["none", "all", "no end of turn", "past the end of turn", "lengths differ", "right"],
)
def test_the_audit_says_what_is_wrong_with_a_mask(
    make_tokenizer: Any, mask: list[int], reason: str | None
) -> None:
    tokenizer = make_tokenizer()
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    ids, loss_mask = np.array([9, 9, 9, stop, stop]), np.array([bool(on) for on in mask])
    verdict = renderer(tokenizer).audit(Rendered(ids, loss_mask))
    assert verdict == reason or (reason is not None and verdict is not None and reason in verdict)
