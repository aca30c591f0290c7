"""A spec's sources to rows; a line that is no row becomes a reject, never an exception."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from tunebook_data.datasets import medical_glossary
from tunebook_data.rejects import Fault, Reject
from tunebook_data.rows import Row, content_id
from tunebook_model.conversation import Message
from tunebook_spec.errors import DataError
from tunebook_spec.models import AnySource, DatasetSource, JsonlSource

_ROLES = ("system", "user", "assistant")
_BOM = b"\xef\xbb\xbf"


def read_source(
    source: AnySource, *, system: str | None, spec_dir: Path, assets_dir: Path, seed: int
) -> Iterator[Row | Reject]:
    """Rows of one source in its order, each with its group and a system message if the spec has one.

    Raises:
        DataError: the source as a whole cannot be read.
    """
    for item in _items(source, spec_dir, assets_dir, seed):
        if isinstance(item, Reject):
            yield item
            continue
        group = _group(item, source.split.group_by)
        if isinstance(group, Fault):
            yield Reject.of_row(item, group)
        else:
            yield replace(item, group=group, messages=_with_system(item.messages, system))


def read_jsonl(path: Path, name: str, task: str) -> Iterator[Row | Reject]:
    """Rows of a file with one OpenAI `messages` object per line; blank lines hold nothing.

    Args:
        path: the file.
        name: what rows and messages call it.
        task: the task of its rows.

    Raises:
        DataError: no file, unreadable, or not UTF-8.
    """
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        parsed = _parse(line)
        if isinstance(parsed, Fault):
            yield Reject.of(name, number, parsed)
        else:
            messages, meta = parsed
            row_id = content_id(task, messages)
            yield Row(row_id, messages, task, row_id, name, number, meta)


def source_name(source: AnySource) -> str:
    """What rows, rejects and counts call a source: the same on every machine."""
    return source.name if isinstance(source, DatasetSource) else source.path


def resolve_path(source: JsonlSource, spec_dir: Path) -> Path:
    """Where a source's file lies on this machine."""
    return (spec_dir / Path(source.path).expanduser()).resolve()


def _items(source: AnySource, spec_dir: Path, assets_dir: Path, seed: int) -> Iterator[Row | Reject]:
    match source:
        case JsonlSource():
            return read_jsonl(resolve_path(source, spec_dir), source.path, source.task)
        case DatasetSource(name="medical_glossary"):
            return medical_glossary.rows(
                source.task,
                assets_dir=assets_dir,
                rows=source.num_rows,
                seed=seed,
                num_terms=source.num_terms,
            )
    raise AssertionError(source)


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield (line.removeprefix(_BOM) if number == 1 else line).decode("utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{path}:{number}: not UTF-8 at byte {error.start} of the line; save it as UTF-8"
                    ) from None
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; paths of a spec are relative to its folder") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder; a source is one JSONL file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _parse(line: str) -> tuple[tuple[Message, ...], dict[str, Any]] | Fault:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return Fault("", "not JSON", line.strip())
    if not isinstance(value, dict):
        return Fault("", "not a JSON object", line.strip())
    given = value.pop("messages", None)
    if not isinstance(given, list):
        return Fault("messages", "no list of messages", given)
    messages: list[Message] = []
    for index, each in enumerate(given):
        fault = _message_fault(each, f"messages[{index}]")
        if fault:
            return fault
        messages.append({"role": each["role"], "content": each["content"]})
    return tuple(messages), value


def _message_fault(message: Any, field: str) -> Fault | None:
    if not isinstance(message, dict):
        return Fault(field, "message is not an object", message)
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        return Fault(f"{field}.role", f"role is none of {', '.join(_ROLES)}", role)
    if not isinstance(content, str):
        return Fault(f"{field}.content", "content is not a string", content)
    # A weight, a tool call or a name would change what is trained: leaving it out in silence is no way.
    unknown = sorted(message.keys() - {"role", "content"})
    return (
        Fault(f"{field}.{unknown[0]}", "message has more than role and content", unknown) if unknown else None
    )


def _group(row: Row, group_by: str | None) -> str | Fault:
    if group_by is None:
        return row.id
    value = row.meta.get(group_by)
    if isinstance(value, str) and value:
        return value
    return Fault(group_by, f"no string {group_by!r} to group by", value)


def _with_system(messages: tuple[Message, ...], system: str | None) -> tuple[Message, ...]:
    if system is None or (messages and messages[0]["role"] == "system"):
        return messages
    return ({"role": "system", "content": system}, *messages)
