from __future__ import annotations

from collections.abc import Callable

import pytest

from tunebook_data.checks import find_fault, render_or_fault
from tunebook_data.rejects import Fault, Reject
from tunebook_data.rows import Row
from tunebook_model.render import Rendered, Renderer
from tunebook_spec.errors import DataError
from tunebook_spec.models import Checks

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
    assert isinstance(render_or_fault(row, renderer, Checks(max_tokens=length)), Rendered)
    fault = render_or_fault(row, renderer, Checks(max_tokens=length - 1))
    assert fault == Fault("messages", f"longer than max_tokens {length - 1}", length)


def test_a_long_row_ends_the_run_where_the_spec_says_so(
    make_row: Callable[..., Row], renderer: Renderer
) -> None:
    checks = Checks(max_tokens=8, on_too_long="fail")
    with pytest.raises(DataError, match=r"rows\.jsonl:31: \d+ tokens, more than .*max_tokens 8; shorten"):
        render_or_fault(make_row("What colour is the sky?", line=31), renderer, checks)


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
