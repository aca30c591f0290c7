"""Answers that should be JSON: whether they are, match a schema, and say of each field what the text says."""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from tunebook_data.answer_schema import answer_problem

Fact = tuple[str, Hashable]
"""A field's dotted path, and one value that it has; a list has several."""


def is_json(text: str) -> bool:
    """JSON and nothing else: no fence around it, no word before it."""
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def matches(text: str, schema: Mapping[str, Any]) -> bool:
    return answer_problem(text, dict(schema)) is None


def fields(text: str, reference: str, listed: Sequence[str] | None) -> dict[str, float] | None:
    """How far the fields of an answer are those of the reference; None if the reference is no JSON object.

    `""` is F1, `exact` whether all is right and nothing else is there. Precision is left out where nothing is
    given, recall where nothing should be, and a field where neither says anything. An answer that is no JSON
    object gives nothing, and is not right even where nothing should be given.
    """
    right, given = facts_of(reference), facts_of(text)
    if right is None:
        return None
    is_object, given = given is not None, given or frozenset()
    names = listed or sorted({path for path, _ in right | given})
    if listed is not None:
        right, given = _within(right, listed), _within(given, listed)
    scores = _measures(right, given)
    scores[""] = scores.pop("f1", 1.0) if is_object else 0.0
    scores["exact"] = float(is_object and right == given)
    for name in names:
        of_field = _measures(_within(right, [name]), _within(given, [name]))
        scores |= {f"{name}.{part}": value for part, value in of_field.items()}
    return scores


def facts_of(text: str) -> frozenset[Fact] | None:
    """What a JSON object says; None if the text is not one, or nests deeper than anyone reads."""
    try:
        value = orjson.loads(text)
        return frozenset(_facts(value, "")) if isinstance(value, dict) else None
    except (orjson.JSONDecodeError, RecursionError):
        return None


def _facts(value: Any, path: str) -> Iterator[Fact]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _facts(inner, f"{path}.{key}" if path else key)
        return
    for each in value if isinstance(value, list) else [value]:
        if not _says_nothing(each):
            yield path, _comparable(each)


def _says_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or value in ([], {})


def _comparable(value: Any) -> Hashable:
    """Equal for what means the same: 5 and 5.0, but not true and 1."""
    if isinstance(value, dict):
        return frozenset(_facts(value, ""))
    if isinstance(value, list):
        return ("list", frozenset(_comparable(each) for each in value if not _says_nothing(each)))
    if isinstance(value, str):
        return " ".join(unicodedata.normalize("NFKC", value).casefold().split())
    return (type(value).__name__, value) if isinstance(value, bool) else float(value)


def _within(facts: frozenset[Fact], names: Sequence[str]) -> frozenset[Fact]:
    """The facts of these fields, and of what is nested in them."""
    return frozenset(
        fact for fact in facts if any(fact[0] == name or fact[0].startswith(f"{name}.") for name in names)
    )


def _measures(right: frozenset[Fact], given: frozenset[Fact]) -> dict[str, float]:
    hits = len(right & given)
    found = {}
    if right or given:
        found["f1"] = 2 * hits / (len(right) + len(given))
    if given:
        found["precision"] = hits / len(given)
    if right:
        found["recall"] = hits / len(right)
    return found
