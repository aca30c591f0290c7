"""Regression suites of one's own, out of files: ours, or rows as many of lm-eval's tasks have them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from string import ascii_uppercase
from typing import Annotated, Any, Self

import orjson
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    StrictStr,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from tunebook_data.records import read_records
from tunebook_data.rejects import Fault
from tunebook_data.source_files import SourceFile, public_name, source_files
from tunebook_data.suites import SuiteItem
from tunebook_spec.errors import DataError
from tunebook_spec.evaluation import SuiteItem as AskedItem

SUITES = "suites.jsonl"
"""The items of every such file, where `prepare` has left its data."""
_FORM = (
    'write {"q": "What is 2+2?", "expected_contains": "4"}, or {"question": ..., "answer": ...} with or'
    ' without "choices": [...]'
)
_FINAL = "####"
"""Before the answer of a row that shows its working, as in GSM8K."""
_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # what else a row says is of no meaning here

    id: StrictStr | StrictInt | None = None
    group: StrictStr | None = None


class _Asked(_Row, AskedItem):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Question(_Row):
    question: str = Field(min_length=1)
    answer: StrictInt | StrictFloat | _Text = Field(
        validation_alias=AliasChoices("answer", "answerKey", "target")
    )
    choices: tuple[_Text, ...] = ()
    labels: tuple[str, ...] | None = None

    @model_validator(mode="before")
    @classmethod
    def take_apart_what_arc_has(cls, fields: dict[str, Any]) -> dict[str, Any]:
        given = fields.get("choices")
        if isinstance(given, dict):
            return {**fields, "choices": given.get("text"), "labels": given.get("label")}
        return fields

    @model_validator(mode="after")
    def there_is_something_to_choose_from(self) -> Self:
        if len(self.choices) == 1:
            raise ValueError("one choice is none: list two or more")
        if self.labels is not None and len(self.labels) != len(self.choices):
            raise ValueError(f"{len(self.choices)} choices have {len(self.labels)} labels")
        return self

    @property
    def right(self) -> str | None:
        """The right answer; None where the row does not say it."""
        given = self.answer
        told = str(int(given) if isinstance(given, float) and given.is_integer() else given)
        if not self.choices:
            return told.rpartition(_FINAL)[2].strip() or None
        by_text = told if told in self.choices else None
        if self.labels is not None:
            return dict(zip(self.labels, self.choices, strict=True)).get(told, by_text)
        if isinstance(given, str):
            return by_text or dict(zip(ascii_uppercase, self.choices, strict=False)).get(told)
        is_place = isinstance(given, int) and 0 <= given < len(self.choices)
        return self.choices[int(given)] if is_place and not by_text else None


def read_suite(path: str, spec_dir: Path) -> list[SuiteItem]:
    """The items of a suite, file by file in their order.

    A row without an id has its number, and one without a group is a group of its own.

    Args:
        path: as the spec names it.
        spec_dir: what it is relative to.

    Raises:
        DataError: it cannot be read, a row is none of a suite, two have one id or ask the same, or there is
            none.
    """
    items: dict[str, SuiteItem] = {}
    asked: dict[str, str] = {}
    for place, fields in _records(source_files(path, spec_dir)):
        item = _item(place, fields, len(items))
        if items.setdefault(item.id, item) is not item:
            raise DataError(f"{place}: a second row has the id {item.id!r}; give each its own, or none an id")
        if (first := asked.setdefault(item.prompt, place)) != place:
            told = "asks the same, and would count as a second piece of evidence: keep one of the two"
            raise DataError(f"{place}: {told} ({first})")
    if not items:
        raise DataError(f"suite {public_name(path)}: has no row; {_FORM}")
    return list(items.values())


def write_suites(target: Path, suites: Mapping[str, Sequence[SuiteItem]]) -> None:
    """Keep the items of suites, by the path in the spec, so that what answers them needs no other file."""
    with target.open("wb") as file:
        for path, items in suites.items():
            for item in items:
                line = {"file": public_name(path), "item": asdict(item)}
                file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))


def read_suites(source: Path) -> dict[str, list[SuiteItem]]:
    """What `write_suites` has written, by the public name of the path in the spec."""
    suites: dict[str, list[SuiteItem]] = {}
    for line in map(orjson.loads, source.read_bytes().splitlines()):
        suites.setdefault(line["file"], []).append(_ITEM.validate_python(line["item"]))
    return suites


_ITEM = TypeAdapter(SuiteItem)


def _records(files: Sequence[SourceFile]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What stands in each row, by its place; a null says nothing."""
    for file in files:
        for number, record in read_records(file):
            place = f"suite {file.name}:{number}"
            if isinstance(record, Fault):
                raise DataError(f"{place}: {record.reason} (got {record.value!r}); {_FORM}")
            yield place, {name: value for name, value in record.items() if value is not None}


def _item(place: str, fields: Mapping[str, Any], number: int) -> SuiteItem:
    form: type[_Asked] | type[_Question] = _Asked if "q" in fields else _Question
    try:
        row = form.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(each) for each in first["loc"])
        raise DataError(f"{place}: {where}: {first['msg']}; {_FORM}") from None
    id = f"{number:04}" if row.id is None else str(row.id)
    if isinstance(row, _Asked):
        given = row.expected_contains
        expected = (given,) if isinstance(given, str) else given
        return SuiteItem(id, row.q, expected, row.group or id)
    if row.right is None:
        told = (
            f"`answer` {row.answer!r} names none of {list(row.choices)}"
            if row.choices
            else "`answer` is empty"
        )
        raise DataError(
            f"{place}: {told}; of choices write the text, its label or letter, or its place from 0"
        )
    return SuiteItem(id, row.question, (row.right,), row.group or id, row.choices)
