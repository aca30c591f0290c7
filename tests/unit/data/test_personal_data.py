from __future__ import annotations

from dataclasses import replace

import pytest

from tunebook_data.personal_data import RULE_NAMES, mask_row, scan
from tunebook_data.rejects import Flag
from tunebook_data.rows import Row

# Written in parts, so that no scanner of this repository takes them for real ones.
KEY = "-----BEGIN RSA " + "PRIVATE KEY-----"
KEYS = {
    "aws": "AKIA" + "IOSFODNN7EXAMPLE",
    "github": "ghp_" + "a1B2" * 9,
    "github fine-grained": "github_pat_" + "a1B2c3" * 8,
    "gitlab": "glpat-" + "a1B2c" * 4,
    "google": "AIza" + "a1B2c" * 7,
    "huggingface": "hf_" + "aBcDeF" * 6,
    "npm": "npm_" + "a1B2" * 9,
    "openai": "sk-proj-" + "a1B2c3" * 5,
    "anthropic": "sk-ant-api03-" + "a1B2c3" * 5,
    "slack": "xoxb-" + "123456789012-abcdef",
    "stripe": "sk_live_" + "a1B2" * 6,
    "jwt": "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0NTY3ODkwIn0" + ".dBjftJeZ4CVP-mB92K27uhbU",
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_keys_of_well_known_shapes_are_masked_whole(key: str) -> None:
    assert scan(f"Use '{key}', please.") == ("Use '[API_KEY]', please.", ("api_key",))


@pytest.mark.parametrize(
    ("text", "masked", "rule"),
    [
        (f"{KEY}\nMIIE\nabc\n{KEY.replace('BEGIN', 'END')} end", "[PRIVATE_KEY] end", "private_key"),
        (f"{KEY}\nMIIE cut off", "[PRIVATE_KEY]", "private_key"),
        ("Write to Ada.L+x@mail.uni-ulm.de.", "Write to [EMAIL].", "email"),
        ("Pay DE89 3704 0044 0532 0130 00 today", "Pay [IBAN] today", "iban"),
        ("Pay GB82WEST12345698765432.", "Pay [IBAN].", "iban"),
        ("Pay FR14 2004 1010 0505 0001 3M02 606 ASAP", "Pay [IBAN] ASAP", "iban"),
        ("Card 4111 1111 1111 1111, thanks", "Card [CREDIT_CARD], thanks", "credit_card"),
        ("Card 3782-822463-10005", "Card [CREDIT_CARD]", "credit_card"),
        ("SSN 123-45-6789.", "SSN [US_SSN].", "us_ssn"),
        ("Call +49 (30) 901820-12 now", "Call [PHONE] now", "phone"),
        ("Call +442079460000", "Call [PHONE]", "phone"),
        ("Call (212) 664-7665 or so", "Call [PHONE] or so", "phone"),
        ("Call 212-664-7665.", "Call [PHONE].", "phone"),
    ],
)
def test_a_finding_is_masked_and_told_by_its_rule(text: str, masked: str, rule: str) -> None:
    assert scan(text) == (masked, (rule,))


@pytest.mark.parametrize(
    "text",
    [
        "Write to ada@example.com or ada@mail.test",
        "the matrix product a @ b, and @decorator",
        "IBAN DE89 3704 0044 0532 0130 01 with a wrong check digit",
        "card 4111 1111 1111 1112 with a wrong check digit",
        "order 1234567890123456 and 3141592653589793",
        "SSN 000-12-3456, 666-12-3456, 900-12-3456, 123-00-4567, 123-45-0000",
        "call 212-555-0123 or (212) 555-0199",
        "2+10 = 12, x = +5, 10-20-30, 2024-11-24, 192.168.0.1, 1,000,000",
        "version 1.2.3-456.7890 of 2024.11.24",
        "the sk-learn and task-force-of-very-many-hyphenated-words",
        "-----BEGIN PUBLIC KEY----- is for everyone",
        "[EMAIL] [PHONE]",
    ],
)
def test_what_only_looks_alike_is_left(text: str) -> None:
    assert scan(text) == (text, ())


def test_several_rules_are_told_in_the_order_of_the_list() -> None:
    masked, found = scan("SSN 123-45-6789, a@b.org, 4111111111111111 and c@d.org")
    assert masked == "SSN [US_SSN], [EMAIL], [CREDIT_CARD] and [EMAIL]"
    assert found == ("email", "credit_card", "us_ssn")
    assert list(found) == [name for name in RULE_NAMES if name in found]


def test_a_masked_row_holds_no_finding_anywhere() -> None:
    messages = (
        {"role": "user", "content": "I am ada@uni-ulm.de"},
        {"role": "assistant", "content": "Hello."},
    )
    meta = {"mail": "ada@uni-ulm.de", "more": [{"card": "4111111111111111", "age": 36}]}
    row = Row("id", messages, "task", "ada@uni-ulm.de", "rows.jsonl", 3, meta)  # type: ignore[arg-type]
    masked, flags = mask_row(row)
    assert masked.messages[0]["content"] == "I am [EMAIL]"
    assert masked.meta == {"mail": "[EMAIL]", "more": [{"card": "[CREDIT_CARD]", "age": 36}]}
    assert masked.group not in ("ada@uni-ulm.de", mask_row(replace(row, group="bob@uni-ulm.de"))[0].group)
    assert flags == [Flag("rows.jsonl", 3, "messages[0].content", "masked email")]
    assert row.meta["mail"] == "ada@uni-ulm.de", "the row given stays as it was"


def test_a_sound_row_is_left_by_masking() -> None:
    messages = ({"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada."})
    row = Row("id", messages, "task", "g1", "rows.jsonl", 3, {"n": 1})  # type: ignore[arg-type]
    assert mask_row(row) == (row, [])


@pytest.mark.parametrize(
    "char", ["a", "1", "-", "+1 ", "A1", "(", "1 ", "a.", "@a.", "sk-", "-eyJa", "-----BEGIN A "]
)
def test_a_long_run_of_like_characters_costs_no_more_than_its_length(char: str) -> None:
    scan(char * 20_000)  # a pattern that backtracks would run into the test's time limit
