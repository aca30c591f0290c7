"""A spec's sources to rows; a record that is no row becomes a reject, never an exception."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from tunebook_data.datasets import code_style, medical_glossary, medical_plain, support_tickets
from tunebook_data.formats import conversation, fields_by_format, recognise
from tunebook_data.hub_files import hub_files, hub_name
from tunebook_data.records import Record, has_lines, line_record, read_records
from tunebook_data.rejects import Fault, Reject
from tunebook_data.rows import ACROSS_TASKS, Row, content_id
from tunebook_data.source_files import Hashing, SourceFile, public_name, source_files
from tunebook_model.conversation import Message
from tunebook_spec.data import AnySource, Columns, DatasetSource, FileSource, HubSource, RowFormat, Split
from tunebook_spec.errors import DataError

_ROWS_THAT_DECIDE = 10
_MAX_LOOKED_AT = 1000
_MAX_NAMED = 20


@dataclass(frozen=True)
class SourcePart:
    """One file of a source, or the whole of a built-in data set, whose items can be read once."""

    name: str
    format: RowFormat | Columns | None
    """None: of a built-in data set, or of a file without a single record."""
    items: Iterator[Row | Reject]
    """In the order of the file."""
    hashing: Hashing | None = None
    """None: of a built-in data set, whose packages are pinned."""
    lines: LineFile | None = None
    """The same as lines, each of which can be read again; none where it is no JSONL on this machine, or
    its rows may lack their answer."""

    @property
    def sha256(self) -> str:
        """Of the file as it was when it was opened first."""
        assert self.hashing is not None, "a built-in data set has no file"
        return self.hashing.known()


@dataclass(frozen=True)
class LineFile:
    """A JSONL file, and how a line of it becomes a row."""

    name: str
    place: str
    form: RowFormat | Columns
    task: str
    split: Split
    system: str | None
    learns_preferences: bool = False

    def item(self, number: int, line: bytes, *, is_first: bool = False) -> Row | Reject | None:
        """What a line holds; none if it is blank."""
        record = line_record(line, is_first=is_first)
        if record is None:
            return None
        records = iter([(number, record)])
        items = _rows(self.name, records, self.form, self.task, learns_preferences=self.learns_preferences)
        return next(_finished(items, self.split, self.system))


def read_source(
    source: AnySource,
    *,
    system: str | None,
    spec_dir: Path,
    assets_dir: Path,
    seed: int,
    takes_prompts: bool = False,
    learns_preferences: bool = False,
) -> Iterator[SourcePart]:
    """The rows of one source, each with its group and a system message if the spec has one.

    With `takes_prompts`, a row may lack its answer; with `learns_preferences` it is a preference.

    Raises:
        DataError: the source as a whole cannot be read, or a file of it holds other rows than those wanted.
    """
    for part in _parts(source, spec_dir, assets_dir, seed, takes_prompts, learns_preferences):
        lines = replace(part.lines, split=source.split, system=system) if part.lines else None
        yield replace(part, items=_finished(part.items, source.split, system), lines=lines)


def source_name(source: AnySource) -> str:
    """What counts and messages call a source: the same on every machine."""
    match source:
        case DatasetSource():
            return source.name
        case HubSource():
            return f"{hub_name(source)}/{source.path}"
        case FileSource():
            return public_name(source.path)


def files_of(source: FileSource | HubSource, spec_dir: Path) -> list[SourceFile]:
    """The files of a source in their order; as `source_files` and `hub_files`."""
    return hub_files(source) if isinstance(source, HubSource) else source_files(source.path, spec_dir)


def _parts(
    source: AnySource,
    spec_dir: Path,
    assets_dir: Path,
    seed: int,
    takes_prompts: bool,
    learns_preferences: bool,
) -> Iterator[SourcePart]:
    match source:
        case FileSource() | HubSource():
            for file in files_of(source, spec_dir):
                yield _file_part(file, source, takes_prompts, learns_preferences)
        case DatasetSource(name="medical_glossary"):
            rows = medical_glossary.rows(
                source.task,
                assets_dir=assets_dir,
                rows=source.num_rows,
                seed=seed,
                num_terms=source.num_terms,
            )
            yield SourcePart(source.name, None, iter(rows))
        case DatasetSource(name="medical_plain"):
            rows = medical_plain.rows(source.task, assets_dir=assets_dir, rows=source.num_rows, seed=seed)
            yield SourcePart(source.name, None, iter(rows))
        case DatasetSource(name="support_tickets"):
            rows = support_tickets.rows(source.task, assets_dir=assets_dir, rows=source.num_rows, seed=seed)
            yield SourcePart(source.name, None, iter(rows))
        case DatasetSource(name="code_style"):
            rows = code_style.rows(
                source.task, assets_dir=assets_dir, house=source.ruff, rows=source.num_rows, seed=seed
            )
            yield SourcePart(source.name, None, iter(rows))


def _file_part(
    file: SourceFile, source: FileSource | HubSource, takes_prompts: bool, learns_preferences: bool
) -> SourcePart:
    hashing = Hashing(file)
    records = read_records(replace(file, open=hashing.open))
    form: RowFormat | Columns | None = source.format or source.columns
    if form is None:
        form, records = _recognised(file.name, records)
    if learns_preferences and form not in ("preference", None):
        raise DataError(
            f"{file.name}: its rows are of format {form}, and method.objective dpo learns from preferences"
            " alone (`format: preference`: input, preferred_output, non_preferred_output); leave the source"
            " out, or the objective"
        )
    # What is scanned as lines has an answer in every row.
    lines = (
        LineFile(file.name, file.place, form, source.task, source.split, None, learns_preferences)
        if form and has_lines(file) and not takes_prompts
        else None
    )
    rows = _rows(file.name, records, form, source.task, takes_prompts, learns_preferences)
    return SourcePart(file.name, form, rows, hashing, lines)


def _recognised(name: str, records: Iterator[Record]) -> tuple[RowFormat | None, Iterator[Record]]:
    """The format of most of the first good rows, and the records, none lost."""
    looked_at: list[Record] = []
    votes: Counter[RowFormat] = Counter()
    objects: list[dict[str, Any]] = []
    for number, record in records:
        looked_at.append((number, record))
        if isinstance(record, dict):
            objects.append(record)
            votes.update([found] if (found := recognise(record)) else [])
        if votes.total() == _ROWS_THAT_DECIDE or len(looked_at) == _MAX_LOOKED_AT:
            break
    whole = chain(looked_at, records)
    if not objects and len(looked_at) < _MAX_LOOKED_AT:
        return None, whole
    if not objects:
        faults = [
            Reject.of(name, number, record) for number, record in looked_at if isinstance(record, Fault)
        ]
        raise DataError(f"{name}: none of its first {len(faults)} rows can be read, for instance {faults[0]}")
    if not votes:
        fields = ", ".join(list(objects[0])[:_MAX_NAMED]) or "none"
        raise DataError(
            f"{name}: is of no known format; its fields are {fields}; known are {fields_by_format()}; say"
            " under `columns` how its fields make a conversation"
        )
    return votes.most_common(1)[0][0], whole


def _rows(
    name: str,
    records: Iterator[Record],
    form: RowFormat | Columns | None,
    task: str,
    takes_prompts: bool = False,
    learns_preferences: bool = False,
) -> Iterator[Row | Reject]:
    for number, record in records:
        if isinstance(record, Fault):
            yield Reject.of(name, number, record)
            continue
        assert form is not None, "a format is found where there is an object"
        made = conversation(record, form, takes_prompts=takes_prompts, learns_preferences=learns_preferences)
        if isinstance(made, Fault):
            yield Reject.of(name, number, made)
        else:
            row_id = content_id(task, made.messages, made.tools, made.rejected)
            row = Row(row_id, made.messages, task, row_id, name, number, made.meta, made.tools)
            yield replace(row, rejected=made.rejected) if made.rejected else row


def _finished(items: Iterator[Row | Reject], split: Split, system: str | None) -> Iterator[Row | Reject]:
    for item in items:
        if isinstance(item, Reject):
            yield item
            continue
        group = _group(item, split)
        if isinstance(group, Fault):
            yield Reject.of_row(item, group)
        elif group == item.group and system is None:
            yield item
        else:
            yield replace(item, group=group, messages=_with_system(item.messages, system))


def _group(row: Row, split: Split) -> str | Fault:
    if split.group_by is None:
        return row.id
    value = row.meta.get(split.group_by)
    if isinstance(value, str) and value:
        return f"{ACROSS_TASKS}{value}" if split.across_tasks else value
    return Fault(split.group_by, f"no string {split.group_by!r} to group by", value)


def _with_system(messages: tuple[Message, ...], system: str | None) -> tuple[Message, ...]:
    if system is None or (messages and messages[0]["role"] == "system"):
        return messages
    return ({"role": "system", "content": system}, *messages)
