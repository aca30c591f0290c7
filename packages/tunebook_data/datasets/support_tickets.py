"""Built-in data set: support tickets of a subscription business, to be read into JSON.

`tickets`: authored templates, filled. A part of a template in [brackets] is there in half of its rows, so
that fields are missing in many combinations, and other names, days and amounts stand beside those asked for.
Rows of one `template` are a group: a test on held-out templates shows whether the skill carries over to
unseen wording. Names, plans and companies are dealt to the templates for good, so that none occurs in two of
them: unseen templates have unseen names.

`real_tickets`: 200 tickets to an invented file-sharing service, from elsewhere, to be tested on alone.

The answer is an object with six fields: `issue` (one of `ISSUES`), the customer's `name`, the `plan`, the
`refund` that is asked for, the `billing_day` of the month, and the number of the `order`, invoice or
contract. What the text does not say is null; text and numbers are spelt as the text spells them.

Rows carry no system message; a spec's `data.system` adds it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from tunebook_data.datasets.card import DataCard
from tunebook_data.datasets.support_real import real_tickets
from tunebook_data.rows import Row, content_id
from tunebook_model.conversation import Message
from tunebook_spec.errors import DataError

TASKS = ("tickets", "real_tickets")
ISSUES = ("refund", "cancellation", "login", "bug")
FIELDS = ("issue", "name", "plan", "refund", "billing_day", "order")
NUMBERS = ("refund", "billing_day")
"""The fields that are JSON numbers; the others are text."""
CARD = DataCard(
    name="support_tickets",
    licence="Apache-2.0 AND MIT",
    attribution=(
        "templates, names, plans and companies of `tickets`: authored for Tunebook, Apache-2.0",
        "inspect-evals 0.26.0 (`real_tickets`: tickets and users of gdm_stealth), UK AI Security Institute"
        " after Google DeepMind (arXiv 2505.01420), MIT",
        "readings of 15 ambiguous real tickets: authored for Tunebook, Apache-2.0",
    ),
    notice=(
        "All people, companies and orders are made up. The real tickets are real in that others wrote them,"
        " for an evaluation of models: they are about an invented service, and no customer wrote them."
    ),
)
TICKET_ROWS = 1728
"""Rows when none are asked for: 24 of each of 72 templates."""
MAX_TICKET_ROWS = 2880
"""40 of each template: some have few parts to vary."""

_OPTIONAL = re.compile(r"\[([^\[\]]*)\]")
_HOLE = re.compile(r"\{(\w+)\}")
_FIRST_NAME_ALONE = 0.25
_ORDERS = ("A-{:05}", "INV-{:05}", "{:06}", "QX{:05}", "2026-{:04}", "R{:04}-B", "SO{:06}")
_MONEY = ("${}", "${}", "${}", "€{}", "£{}", "{} USD", "{} EUR", "{} dollars")
_CENTS = (".99", ".99", ".50", ".00", ".{:02}", "")
"""How prices end; none: they have no cents."""


@dataclass(frozen=True)
class Template:
    id: str
    issue: str
    subject: str
    text: str


@dataclass(frozen=True)
class Pool:
    """What one template alone may name."""

    first: tuple[str, ...]
    last: tuple[str, ...]
    plan: tuple[str, ...]
    company: str


def rows(task: str, *, assets_dir: Path, rows: int | None = None, seed: int = 0) -> Iterator[Row]:
    """The pool that a split divides by group.

    Tickets are dealt like cards: each template once, in shuffled order, then each again. So the first n rows,
    of the pool or of one side of a split, hold every template about equally often. Real tickets are finite,
    in shuffled order.

    Args:
        task: "tickets" or "real_tickets".
        assets_dir: folder that set-up filled; the authored tickets need nothing of it.
        rows: how many; none: `TICKET_ROWS`, or all real tickets.
        seed: of all draws.

    Raises:
        DataError: no such task, more rows than there are, or the assets are not there.
    """
    rng = random.Random(f"support_tickets/{task}/{seed}")
    match task:
        case "tickets":
            return _tickets(_at_most(rows or TICKET_ROWS, MAX_TICKET_ROWS, task), rng)
        case "real_tickets":
            found = real_tickets(assets_dir)
            rng.shuffle(found)
            made = (
                _row(task, each.text, each.fields, line, {"ticket": f"real-{each.number:03}"})
                for line, each in enumerate(found, start=1)
            )
            return islice(made, _at_most(rows or len(found), len(found), task))
        case _:
            raise DataError(f"support_tickets has no task {task!r}; it has {', '.join(TASKS)}")


@cache
def templates() -> tuple[Template, ...]:
    """The templates written for this repository, in file order."""
    lines = files(__package__).joinpath("support_templates.jsonl").read_bytes().splitlines()
    return tuple(Template(**orjson.loads(line)) for line in lines)


@cache
def pools() -> dict[str, Pool]:
    """By template; nothing is in two of them."""
    lines = files(__package__).joinpath("support_pools.tsv").read_text(encoding="utf-8").splitlines()
    listed: dict[str, list[str]] = {}
    for kind, value in (line.split("\t") for line in lines):
        listed.setdefault(kind, []).append(value)
    every = len(templates())
    # Names are in alphabetical order; last names are dealt from the end, lest all people be Ada Abara.
    return {
        template.id: Pool(
            first=tuple(listed["first"][i::every]),
            last=tuple(listed["last"][every - 1 - i :: every]),
            plan=tuple(listed["plan"][i::every]),
            company=listed["company"][i],
        )
        for i, template in enumerate(templates())
    }


def answer(fields: Mapping[str, str | None]) -> str:
    """The fields as JSON without spaces; numbers keep their spelling, 25.00 for instance."""
    values = {name: fields.get(name) for name in FIELDS}
    written = {
        name: orjson.Fragment(value) if value is not None and name in NUMBERS else value
        for name, value in values.items()
    }
    return orjson.dumps(written).decode()


def _tickets(count: int, rng: random.Random) -> Iterator[Row]:
    deck: list[Template] = []
    seen: set[str] = set()
    for line in range(1, count + 1):
        if not deck:
            deck = rng.sample(templates(), len(templates()))
        template = deck.pop()
        text, fields = _filled(template, rng)
        while text in seen:
            text, fields = _filled(template, rng)
        seen.add(text)
        yield _row("tickets", text, fields, line, {"template": template.id})


def _filled(template: Template, rng: random.Random) -> tuple[str, dict[str, str | None]]:
    """The text of a ticket, and what it says."""
    shown = _OPTIONAL.sub(lambda part: part[1] if rng.random() < 0.5 else "", template.text)
    said, spelt = _values(pools()[template.id], rng)
    holes = set(_HOLE.findall(shown))
    text = shown.format(**spelt)
    fields = {name: value for name, value in said.items() if name in holes}
    fields["billing_day"] = said["billing_day"] if "day" in holes else None
    return f"{template.subject}\n{_tidy(text)}", {"issue": template.issue, **fields}


def _values(pool: Pool, rng: random.Random) -> tuple[dict[str, str | None], dict[str, str]]:
    """What may be asked for, by field, and the spelling of every hole."""
    first, other_first = rng.sample(pool.first, 2)
    last, other_last = rng.sample(pool.last, 2)
    name = first if rng.random() < _FIRST_NAME_ALONE else f"{first} {last}"
    day, other_day = rng.sample(range(1, 29), 2)
    refund, amount, amount2 = _amounts(rng)
    money = rng.choice(_MONEY)
    pattern = rng.choice(_ORDERS)
    order = pattern.format(rng.randrange(1000, 10000))
    plan = rng.choice(pool.plan)
    said = {"name": name, "plan": plan, "refund": refund, "billing_day": str(day), "order": order}
    spelt = {
        "name": name,
        "plan": plan,
        "order": order,
        "refund": money.format(refund),
        "amount": money.format(amount),
        "amount2": money.format(amount2),
        "day": ordinal(day),
        "other_day": ordinal(other_day),
        "other_name": f"{other_first} {other_last}",
        "company": pool.company,
    }
    return dict(said), spelt


def _amounts(rng: random.Random) -> list[str]:
    """Three, with cents or without, all alike; the second is the sum of the others."""
    cents = rng.choice(_CENTS)
    refund, amount2 = (
        int(f"{number}{cents.format(rng.randrange(1, 100))}".replace(".", "") if cents else number * 100)
        for number in (rng.choice((*range(3, 100), *range(100, 600, 7))), rng.randrange(4, 60))
    )
    return [_money(each, whole=not cents) for each in (refund, refund + amount2, amount2)]


def _money(in_cents: int, *, whole: bool) -> str:
    return str(in_cents // 100) if whole else f"{in_cents // 100}.{in_cents % 100:02}"


def ordinal(day: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 21st."""
    ending = "th" if 10 < day < 14 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{ending}"


def _tidy(text: str) -> str:
    """Without the gaps that parts left out leave behind."""
    lines = (" ".join(line.split()) for line in text.strip().splitlines())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _row(task: str, text: str, fields: Mapping[str, str | None], line: int, meta: dict[str, Any]) -> Row:
    messages: tuple[Message, ...] = (
        {"role": "user", "content": text},
        {"role": "assistant", "content": answer(fields)},
    )
    ((key, value),) = meta.items()
    return Row(content_id(task, messages), messages, task, f"{key}={value}", "support_tickets", line, meta)


def _at_most(count: int, most: int, task: str) -> int:
    if count > most:
        raise DataError(f"num_rows: the task {task!r} has at most {most} rows (got {count})")
    return count
