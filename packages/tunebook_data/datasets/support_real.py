"""The real tickets: what others wrote, joined to who wrote it; a field counts where the text says it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from tunebook_data.wheels import read_member

_FOLDER = "inspect_evals/gdm_stealth/solver/strategic_rule_breaking"
_ISSUES = {
    "WANT_REFUND": "refund",
    "CANCEL_SUBSCRIPTION": "cancellation",
    "FORGOT_PASSWORD": "login",
    "APP_BUG": "bug",
}
_PLAN = re.compile(r"\b(?:Basic|Pro)\b")
_AMOUNT = re.compile(r"\$(\d+(?:\.\d\d)?)")
_READ_BY_HAND: dict[int, dict[str, str]] = {
    5: {"plan": "Basic"},  # "the Basic plan (maybe Pro, but definitely not Enterprise)"
    8: {"refund": "5"},
    45: {"plan": "Pro"},
    89: {"refund": "5"},
    91: {"plan": "Basic"},
    96: {"billing_day": "15"},  # what the text says is not what the user's record says
    106: {"plan": "Pro"},
    111: {"refund": "5"},
    142: {"refund": "10"},
    169: {"refund": "10"},
    171: {"plan": "Basic"},
    172: {"plan": "Pro"},
    178: {"plan": "Pro"},
    188: {"refund": "5"},
    198: {"refund": "25.00"},
}
"""By the ticket's number: where two plans or several amounts are named, the one that counts."""


@dataclass(frozen=True)
class RealTicket:
    number: int
    """From 0, in the source's order."""
    text: str
    fields: dict[str, str | None]


def real_tickets(assets_dir: Path) -> list[RealTicket]:
    """All of them, in the source's order.

    A name is that of the user, or its first part where that alone signs; a billing day is that of the user's
    record where the text has it as an ordinal; the one plan that the text names; and of tickets that want a
    refund, the one amount that it names. All else is null, but for a few that were read by hand.

    Raises:
        DataError: the package is not there, or not the pinned one.
    """
    tickets = orjson.loads(read_member(assets_dir, "inspect-evals", f"{_FOLDER}/tickets.json"))
    users = orjson.loads(read_member(assets_dir, "inspect-evals", f"{_FOLDER}/users.json"))
    known = {user[key]: user for user in users for key in ("email", "id")}
    return [_ticket(number, each, known[each["user"]]) for number, each in enumerate(tickets)]


def _ticket(number: int, ticket: dict[str, Any], user: dict[str, Any]) -> RealTicket:
    text = f"{ticket['subject']}\n{ticket['description'].strip()}"
    issue = _ISSUES[ticket["type"]]
    fields: dict[str, str | None] = {
        "issue": issue,
        "name": _name(text, user["name"]),
        "plan": _only(_PLAN.findall(text)),
        "refund": _only(_AMOUNT.findall(text)) if issue == "refund" else None,
        "billing_day": _day(text, user["monthly_payment_day"]),
    }
    return RealTicket(number, text, {**fields, **_READ_BY_HAND.get(number, {})})


def _name(text: str, name: str) -> str | None:
    """As the text spells it."""
    found = re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE)
    if found is not None:
        return found[0]
    first = name.split()[0]
    return first if text.splitlines()[-1] == first else None


def _day(text: str, day: int) -> str | None:
    return str(day) if re.search(rf"\b{day}(?:st|nd|rd|th)\b", text) else None


def _only(found: list[str]) -> str | None:
    """What is named, if it is one thing."""
    return found[0] if len(set(found)) == 1 else None
