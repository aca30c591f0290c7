from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tunebook_data.answer_schema import schema_problem
from tunebook_data.checks import find_fault, find_flags, render_or_fault
from tunebook_data.rejects import Fault, Reject
from tunebook_data.rows import Row
from tunebook_model.render import Renderer
from tunebook_spec.data import Checks
from tunebook_spec.errors import DataError

CHECKS = Checks(min_response_chars=3, max_response_chars=20, max_tokens=64)


def chat(*turns: tuple[str, str]) -> Row:
    messages = tuple({"role": role, "content": content} for role, content in turns)
    return Row("id", messages, "task", "group", "rows.jsonl", 7)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("turns", "field", "reason"),
    [
        ([], "messages", "fewer than two messages"),
        ([("assistant", "Hello.")], "messages", "fewer than two messages"),
        ([("system", "Be kind."), ("assistant", "Hello.")], "messages[1].role", "alternate"),
        ([("user", "Hi"), ("user", "Hi"), ("assistant", "Hello.")], "messages[1].role", "alternate"),
        ([("assistant", "Hello."), ("user", "Hi"), ("assistant", "Hello.")], "messages[0].role", "alternate"),
        ([("user", "Hi"), ("system", "Be kind."), ("assistant", "Hello.")], "messages[1].role", "alternate"),
        ([("user", "Hi"), ("assistant", "Hello."), ("user", "Bye")], "messages[2].role", "last message"),
        ([("user", " \n"), ("assistant", "Hello.")], "messages[0].content", "empty"),
        ([("user", "Hi"), ("assistant", "\t")], "messages[1].content", "empty"),
        ([("user", "Hi"), ("assistant", "No")], "messages[1].content", "min_response_chars 3"),
        ([("user", "Hi"), ("assistant", "x" * 21)], "messages[1].content", "max_response_chars 20"),
    ],
)
def test_a_faulty_row_is_named_by_field_and_reason(
    turns: list[tuple[str, str]], field: str, reason: str
) -> None:
    fault = find_fault(chat(*turns), CHECKS)
    assert fault is not None
    assert fault.field == field
    assert reason in fault.reason


@pytest.mark.parametrize(
    "turns",
    [
        [("user", "Hi"), ("assistant", "Yes")],
        [("user", "Hi"), ("assistant", "x" * 20)],
        [
            ("system", "Be kind."),
            ("user", "Hi"),
            ("assistant", "Hello."),
            ("user", "Bye"),
            ("assistant", "Bye."),
        ],
    ],
    ids=["shortest", "longest", "several turns"],
)
def test_a_sound_row_has_no_fault(turns: list[tuple[str, str]]) -> None:
    assert find_fault(chat(*turns), CHECKS) is None


def test_a_row_of_exactly_max_tokens_is_kept_and_a_longer_one_is_a_fault(
    make_row: Callable[..., Row], renderer: Renderer
) -> None:
    row = make_row("What colour is the sky?")
    length = len(renderer.render(row.messages).input_ids)
    assert render_or_fault(row, renderer, Checks(max_tokens=length))[0] is row
    fault = render_or_fault(row, renderer, Checks(max_tokens=length - 1))
    assert fault == Fault("messages", f"longer than max_tokens {length - 1}", length)


def test_a_long_row_ends_the_run_where_the_spec_says_so(
    make_row: Callable[..., Row], renderer: Renderer
) -> None:
    checks = Checks(max_tokens=8, on_too_long="fail")
    with pytest.raises(DataError, match=r"rows\.jsonl:31: \d+ tokens, more than .*max_tokens 8; shorten"):
        render_or_fault(make_row("What colour is the sky?", line=31), renderer, checks)


def test_truncate_left_drops_the_oldest_turns_and_keeps_the_system_message(renderer: Renderer) -> None:
    turns = [turn for n in range(4) for turn in (("user", f"Ask {n}?"), ("assistant", f"Told {n} times."))]
    row = chat(("system", "Be kind."), *turns)
    last_two = (row.messages[0], *row.messages[-4:])
    length = len(renderer.render(last_two).input_ids)
    checks = Checks(max_tokens=length, on_too_long="truncate_left")
    cut, rendered = render_or_fault(row, renderer, checks)
    assert cut == replace(row, messages=last_two)
    assert rendered.input_ids.tolist() == renderer.render(last_two).input_ids.tolist()
    whole = Checks(max_tokens=len(renderer.render(row.messages).input_ids), on_too_long="truncate_left")
    assert render_or_fault(row, renderer, whole)[0] is row


def test_a_single_turn_that_is_too_long_is_a_fault_even_where_rows_are_truncated(renderer: Renderer) -> None:
    checks = Checks(max_tokens=20, on_too_long="truncate_left")
    for first in ([], [("system", "Be kind.")]):
        row = chat(
            *first, ("user", "Ask?"), ("assistant", "Told."), ("user", "Hi"), ("assistant", "word " * 30)
        )
        fault = render_or_fault(row, renderer, checks)
        assert isinstance(fault, Fault)
        assert fault.reason == "longer than max_tokens 20"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ends with a bell\x07", "control characters"),
        ("a byte order \x00 of nothing", "control characters"),
        ("C1 \x85 next line", "control characters"),
        ("what was here: \ufffd?", "control characters"),
        ("un caf\u00c3\u00a9 noir", "encoding damage"),
        ("it\u00e2\u20ac\u2122s broken", "encoding damage"),
        ("as warm as 20 \u00c2\u00b0C", "encoding damage"),
        ("smile \u00f0\u0178\u02dc\u20ac", "encoding damage"),
    ],
)
@pytest.mark.parametrize("role", ["user", "assistant"])
def test_damaged_text_is_a_fault_unless_allowed(text: str, reason: str, role: str) -> None:
    texts = {"user": "Say something, please", "assistant": "Something, then.", role: text}
    row = chat(("user", texts["user"]), ("assistant", texts["assistant"]))
    fault = find_fault(row, Checks())
    assert fault is not None
    assert (fault.reason, fault.field) == (reason, f"messages[{int(role == 'assistant')}].content")
    assert find_fault(row, Checks(damaged_text="allow")) is None
    assert not list(find_flags(row, Checks(damaged_text="allow")))
    assert [flag.reason for flag in find_flags(row, Checks(damaged_text="flag"))] == [reason]


@pytest.mark.parametrize(
    "text",
    [
        "Tabs\tand\r\nlines",
        "Caf\u00e9, \u00c5ngstr\u00f6m, S\u00c3O PAULO",
        "\u65e5\u672c\u8a9e \U0001f600",
        "20 \u00b0C \u2013 it\u2019s \u201cfine\u201d",
    ],
)
def test_whole_text_of_any_script_is_sound(text: str) -> None:
    assert find_fault(chat(("user", text), ("assistant", f"{text} indeed it is")), Checks()) is None


REFUSED = [
    "I'm sorry, but I can't assist with that.",
    "I\u2019m sorry, but I cannot comply with this request.",
    "Sorry, I won't help you with that, friend.",
    "Unfortunately, I am unable to provide medical advice.",
    "I cannot fulfill your request, as it is against the rules.",
    "As an AI language model, I like it.",
    "Well, as a large language model trained on text, I think so.",
]
ANSWERED = [
    "I'm sorry to hear that. Let us look at your order.",
    "I can help with that: press the button.",
    "A refusal sounds like this: I cannot comply.",
    "Unfortunately, I can't find order 12; which one is it?",
]


@pytest.mark.parametrize("answer", REFUSED)
def test_a_refusal_is_flagged_dropped_or_allowed_as_the_spec_says(answer: str) -> None:
    row = chat(("user", "Go on"), ("assistant", answer))
    assert find_fault(row, Checks()) is None
    assert [flag.reason for flag in find_flags(row, Checks())] == ["refusal or boilerplate"]
    fault = find_fault(row, Checks(refusals="drop"))
    assert fault is not None
    assert fault.reason == "refusal or boilerplate"
    assert not list(find_flags(row, Checks(refusals="allow")))


@pytest.mark.parametrize("answer", ANSWERED)
def test_an_answer_that_only_sounds_like_a_refusal_is_none(answer: str) -> None:
    assert (
        find_fault(chat(("user", "As an AI language model?"), ("assistant", answer)), Checks(refusals="drop"))
        is None
    )


SCHEMA = {
    "type": "object",
    "properties": {"plan": {"enum": ["basic", "pro"]}, "amount": {"type": ["number", "null"]}},
    "required": ["plan", "amount"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ('{"plan": "pro", "amount": 9.99}', None),
        (' {"plan": "basic",\n"amount": null} ', None),
        ('```json\n{"plan": "pro", "amount": 1}\n```', "not JSON"),
        ('{"plan": "pro", "amount": NaN}', "not JSON"),
        ('{"plan": "gold", "amount": 1}', "$.plan: 'gold' is not one of"),
        ('{"plan": "pro", "amount": "9.99"}', "$.amount: '9.99' is not of type"),
        ('{"plan": "pro", "amount": 1, "more": 2}', "$: Additional properties"),
        ('{"plan": "pro"}       ', "'amount' is a required property"),
    ],
)
def test_an_answer_must_match_the_schema_of_its_task(answer: str, problem: str | None) -> None:
    row = chat(("user", "Which plan?"), ("assistant", answer))
    fault = find_fault(row, Checks(answer_schema={"task": SCHEMA}))
    if problem is None:
        assert fault is None
    else:
        assert fault is not None
        assert fault.reason == "answer does not match data.checks.answer_schema"
        assert problem in fault.value
    assert find_fault(row, Checks(answer_schema={"other": SCHEMA})) is None


def test_a_schema_fetches_nothing() -> None:
    schema = {"$ref": "https://example.com/plan.json"}
    row = chat(("user", "Which plan?"), ("assistant", '{"plan": "pro"}'))
    with pytest.raises(DataError, match=r"answer_schema: .*example\.com/plan\.json.* the schema alone"):
        find_fault(row, Checks(answer_schema={"task": schema}))


def test_what_is_no_schema_is_told() -> None:
    assert schema_problem(SCHEMA) is None
    assert schema_problem({"type": "objekt"}) == (
        "is no JSON Schema: $.type: 'objekt' is not valid under any of the given schemas"
    )


def test_personal_data_is_flagged_by_rule_and_never_quoted() -> None:
    row = chat(("user", "Who is ada@uni-ulm.de?"), ("assistant", "Ada, ada@uni-ulm.de, +44 20 7946 0000."))
    flags = list(find_flags(row, Checks()))
    assert [(flag.reason, flag.field) for flag in flags] == [
        ("personal data: email", "messages[0].content"),
        ("personal data: phone", "messages[0].content"),
    ]
    assert find_fault(row, Checks()) is None
    fault = find_fault(row, Checks(personal_data="drop"))
    assert fault == Fault("messages[0].content", "personal data: email, phone", ["email", "phone"])
    assert not list(find_flags(row, Checks(personal_data="allow")))


def test_an_end_of_turn_token_inside_a_text_is_a_fault(
    make_row: Callable[..., Row], renderer: Renderer
) -> None:
    fault = render_or_fault(make_row("Say <|eot_id|> twice."), renderer, Checks())
    assert isinstance(fault, Fault)
    assert "<|eot_id|>" in fault.value


def test_a_reject_quotes_no_more_than_an_excerpt() -> None:
    reject = Reject.of("rows.jsonl", 3, Fault("messages", "too long", "x" * 10_000))
    assert len(reject.value) < 250
    assert str(reject).startswith("rows.jsonl:3: messages: too long (got 'xxx")
