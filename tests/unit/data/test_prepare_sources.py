from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.data.preparing import prepared
from tests.unit.data.reading import GOOD, read, read_rows
from tunebook_data.rejects import Reject

WriteJsonl = Callable[..., Path]
BY_TERM = {"group_by": "term"}


def test_other_fields_are_kept_and_can_group(write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    write_jsonl([{**GOOD, "term": "CHF", "choices": ["a", "b"]}])
    (row,) = read_rows(tmp_path, "rows.jsonl", split=BY_TERM)
    assert row.group == "CHF"
    assert row.meta == {"term": "CHF", "choices": ["a", "b"]}


@pytest.mark.parametrize("fields", [{}, {"term": ""}, {"term": 3}], ids=["missing", "empty", "number"])
def test_a_row_without_the_field_to_group_by_is_a_reject(
    write_jsonl: WriteJsonl, tmp_path: Path, fields: dict[str, Any]
) -> None:
    write_jsonl([{**GOOD, **fields}])
    (reject,) = read(tmp_path, "rows.jsonl", split=BY_TERM)
    assert isinstance(reject, Reject)
    assert (reject.field, reject.reason) == ("term", "no string 'term' to group by")


def test_the_last_of_two_equal_keys_counts(write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    write_jsonl([b'{"term": "a", "term": "b", "messages": [{"role": "user", "content": "Hi"}]}'])
    (row,) = read_rows(tmp_path, "rows.jsonl", split=BY_TERM)
    assert row.group == "b"


def test_the_system_message_of_the_spec_is_for_rows_that_bring_none(
    write_jsonl: WriteJsonl, tmp_path: Path
) -> None:
    own = {"messages": [{"role": "system", "content": "Be brief."}, *GOOD["messages"]]}
    write_jsonl([GOOD, own])
    rows = read_rows(tmp_path, "rows.jsonl", system="Be kind.")
    assert [row.messages[0]["content"] for row in rows] == ["Be kind.", "Be brief."]


def test_a_byte_order_mark_before_the_first_row_costs_nothing(
    write_jsonl: WriteJsonl, tmp_path: Path, tiny_llama: Path
) -> None:
    """To the end: rows are read again when they are written."""
    write_jsonl(answered(60))
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    source = {"kind": "file", "path": "rows.jsonl", "task": "colour"}
    made = prepared(tmp_path, tiny_llama, {"sources": [source]})
    assert sum(each.rows for each in made.splits.values()) == 60


def test_more_files_than_a_process_may_open_are_read(
    write_jsonl: WriteJsonl, tmp_path: Path, tiny_llama: Path
) -> None:
    for number, row in enumerate(answered(150)):
        write_jsonl([row], f"rows-{number:03}.jsonl")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 100, limits[1]))
    try:
        source = {"kind": "file", "path": "rows-*.jsonl", "task": "colour"}
        made = prepared(tmp_path, tiny_llama, {"sources": [source]})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert sum(each.rows for each in made.splits.values()) == 150


def answered(num: int) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"What is in box {number}?"},
                {"role": "assistant", "content": f"In box {number} is a thing."},
            ]
        }
        for number in range(num)
    ]
