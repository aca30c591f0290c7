"""Secrets and personal data in a text, found by listed rules and by nothing else.

| rule | what it covers |
|---|---|
| private_key | PEM and PGP private key blocks |
| api_key | keys of AWS, GitHub, GitLab, Google, Hugging Face, npm, OpenAI, Anthropic, Slack, Stripe; JWTs |
| email | addresses, but for the domains that RFC 2606 reserves for examples |
| iban | account numbers whose check digits are right (ISO 13616, mod 97) |
| credit_card | Visa, Mastercard, American Express and Discover numbers whose check digit is right (Luhn) |
| us_ssn | US social security numbers written 123-45-6789, of areas that are given out |
| phone | numbers with + and country code, and North American ones with area code, but for 555-01xx |

Names, postal addresses, dates of birth, medical facts and passwords are not found: they have no shape.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import orjson

from tunebook_data.rejects import Flag, Reject
from tunebook_data.rows import Row
from tunebook_model.conversation import Message, ToolCall


@dataclass(frozen=True)
class _Rule:
    name: str
    pattern: re.Pattern[str]
    real: Callable[[str], str] = str
    """The part of a match, from its start, that is what the rule looks for; empty if it only looks alike."""
    needs: tuple[str, ...] = tuple("0123456789")
    """A text of ASCII without any of these holds no match."""


def scan(text: str) -> tuple[str, tuple[str, ...]]:
    """The text with a placeholder such as `[EMAIL]` for each finding, and the rules that found any."""
    found = []
    for rule in RULES:
        if text.isascii() and not any(map(text.__contains__, rule.needs)):
            continue
        masked = rule.pattern.sub(lambda match, rule=rule: _placeholder(rule, match.group()), text)  # type: ignore[misc]
        if masked != text:
            found.append(rule.name)
        text = masked
    return text, tuple(found)


def _placeholder(rule: _Rule, matched: str) -> str:
    real = rule.real(matched)
    return f"[{rule.name.upper()}]{matched[len(real) :]}" if real else matched


def _no_example_address(address: str) -> str:
    domain = address.rpartition("@")[2].lower()
    reserved = re.search(r"(^|\.)(example(\.(com|net|org))?|test|invalid|localhost)$", domain)
    return "" if reserved else address


def _iban(matched: str) -> str:
    """The longest run of blocks with the right check digits; an upper-case word may follow it."""
    blocks = matched.split(" ")
    for count in range(len(blocks), 0, -1):
        number = "".join(blocks[:count])
        if (
            15 <= len(number) <= 34
            and int("".join(str(int(c, 36)) for c in number[4:] + number[:4])) % 97 == 1
        ):
            return " ".join(blocks[:count])
    return ""


_CARD = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|6(?:011|4[4-9]\d|5\d\d)\d{12}"
)


def _card(matched: str) -> str:
    digits = [int(digit) for digit in re.sub(r"\D", "", matched)]
    if not _CARD.fullmatch("".join(map(str, digits))):
        return ""
    doubled = [2 * digit - 9 * (digit > 4) for digit in digits[-2::-2]]
    return "" if (sum(digits[-1::-2]) + sum(doubled)) % 10 else matched


def _phone(matched: str) -> str:
    digits = re.sub(r"\D", "", matched)
    is_fiction = re.search(r"55501\d\d$", digits) is not None
    return matched if 8 <= len(digits) <= 15 and not is_fiction else ""


_API_KEYS = (
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    r"\bgh[pousr]_[A-Za-z0-9]{36,}",
    r"\bgithub_pat_\w{22,}",
    r"\bglpat-[\w-]{20,}",
    r"\bAIza[\w-]{35}",
    r"\bhf_[A-Za-z0-9]{30,}",
    r"\bnpm_[A-Za-z0-9]{36}\b",
    r"(?<![\w-])sk-(?=[A-Za-z_-]*\d)[\w-]{20,}",
    r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",
    r"\b[rs]k_live_[A-Za-z0-9]{16,}",
    r"(?<![\w-])eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}",
)
_KEY_STARTS = tuple(
    "AKIA ASIA ghp_ gho_ ghu_ ghs_ ghr_ github_pat_ glpat- AIza hf_ npm_ sk- xox k_live_ eyJ".split()
)
_KEY_NAME = r"(?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"

# What a rule finds, later ones do not see: a card's digits are no phone number.
RULES = (
    _Rule(
        "private_key",
        re.compile(rf"-----BEGIN {_KEY_NAME}.*?(?:-----END {_KEY_NAME}|\Z)", re.DOTALL),
        needs=("-----BEGIN",),
    ),
    _Rule("api_key", re.compile("|".join(_API_KEYS)), needs=_KEY_STARTS),
    _Rule(
        "email",
        re.compile(r"(?<![\w.+-])[A-Za-z0-9][\w.+-]*@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}"),
        _no_example_address,
        needs=("@",),
    ),
    _Rule("iban", re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"), _iban),
    _Rule("credit_card", re.compile(r"(?<![\d.-])(?:\d[ -]?){12,18}\d(?!\d)"), _card),
    _Rule("us_ssn", re.compile(r"(?<![\d-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])")),
    _Rule(
        "phone",
        re.compile(
            r"(?<![\w+])\+\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,6}(?!\d)"
            r"|(?<![\w-])(?:\(\d{3}\) ?|\d{3}[-. ])\d{3}[-.]\d{4}(?![\w-])"
        ),
        _phone,
    ),
)
RULE_NAMES = tuple(rule.name for rule in RULES)


def mask_row(row: Row) -> tuple[Row, list[Flag]]:
    """The row with its findings masked, in its other fields too, and what was masked where.

    A group that is a finding becomes a digest of itself: rows of one group must still be told from others.
    """
    messages: list[Message] = []
    flags = []
    for place, message in row.places:
        content, rules = scan(message["content"])
        masked: Message = {**message, "content": content}
        if calls := message.get("tool_calls"):
            masked["tool_calls"] = [_masked_call(call) for call in calls]
            rules += tuple(rule for call in calls for rule in scan(call["function"]["arguments"])[1])
        messages.append(masked)
        flags += [
            Flag(row.source, row.line, f"{place}.content", f"masked {rule}") for rule in dict.fromkeys(rules)
        ]
    group = hashlib.sha256(row.group.encode()).hexdigest()[:16] if scan(row.group)[1] else row.group
    rejected = messages.pop() if row.rejected else None
    made = replace(row, messages=tuple(messages), meta=_masked(row.meta), group=group, rejected=rejected)
    return made, flags


def mask_reject(reject: Reject) -> Reject:
    """A reject that quotes no finding."""
    return replace(reject, value=scan(reject.value)[0])


def _masked_call(call: ToolCall) -> ToolCall:
    """Its arguments stay JSON: a finding is masked inside the value that holds it."""
    function = call["function"]
    if not scan(function["arguments"])[1]:
        return call
    arguments = orjson.dumps(_masked(orjson.loads(function["arguments"]))).decode()
    return {**call, "function": {**function, "arguments": arguments}}


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return scan(value)[0]
    if isinstance(value, int | float) and scan(str(value))[1]:
        return scan(str(value))[0]
    if isinstance(value, list):
        return [_masked(each) for each in value]
    if isinstance(value, dict):
        return {key: _masked(each) for key, each in value.items()}
    return value
