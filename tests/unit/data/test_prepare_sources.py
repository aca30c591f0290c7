from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunebook_data.rejects import Reject
from tunebook_data.rows import Row
from tunebook_data.sources import read_source
from tunebook_spec.errors import DataError
from tunebook_spec.models import JsonlSource, Split

WriteJsonl = Callable[..., Path]
GOOD = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}


def read(path: Path, *, group_by: str | None = None, system: str | None = None) -> list[Row | Reject]:
    source = JsonlSource(kind="jsonl", path=path.name, task="task", split=Split(group_by=group_by))
    return list(read_source(source, system=system, spec_dir=path.parent, assets_dir=path.parent, seed=0))


def message(**fields: Any) -> dict[str, Any]:
    return {"messages": [fields, GOOD["messages"][1]]}


@pytest.mark.parametrize(
    ("line", "field", "reason"),
    [
        (b"{not json", "", "not JSON"),
        (b'{"messages": NaN}', "", "not JSON"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "", "not JSON"),
        (b"[" * 5000, "", "not JSON"),
        ([GOOD], "", "not a JSON object"),
        (b"null", "", "not a JSON object"),
        ({"prompt": "Hi"}, "messages", "no list of messages"),
        ({"messages": "Hi"}, "messages", "no list of messages"),
        ({"messages": ["Hi"]}, "messages[0]", "message is not an object"),
        (message(role="tool", content="x"), "messages[0].role", "role is none of system, user, assistant"),
        (message(role=["user"], content="x"), "messages[0].role", "role is none of system, user, assistant"),
        (message(content="x"), "messages[0].role", "role is none of system, user, assistant"),
        (message(role="user", content=None), "messages[0].content", "content is not a string"),
        (message(role="user", content=[{"type": "text"}]), "messages[0].content", "content is not a string"),
        (
            message(role="user", content="x", weight=0),
            "messages[0].weight",
            "message has more than role and content",
        ),
    ],
)
def test_a_bad_line_is_a_reject_and_the_others_go_on(
    write_jsonl: WriteJsonl, line: Any, field: str, reason: str
) -> None:
    before, reject, after = read(write_jsonl([GOOD, line, GOOD]))
    assert isinstance(before, Row)
    assert isinstance(after, Row)
    assert isinstance(reject, Reject)
    assert (reject.source, reject.line) == ("rows.jsonl", 2)
    assert (reject.field, reject.reason) == (field, reason)


def test_lines_are_numbered_as_in_the_file_whatever_its_line_ends(write_jsonl: WriteJsonl) -> None:
    path = write_jsonl([GOOD, b"", b"   ", GOOD])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n")
    assert [row.line for row in read(path)] == [1, 4]


def test_duplicate_keys_of_a_line_are_no_fault(write_jsonl: WriteJsonl) -> None:
    line = b'{"term": "a", "term": "b", "messages": [{"role": "user", "content": "Hi"}]}'
    (row,) = read(write_jsonl([line]), group_by="term")
    assert isinstance(row, Row)
    assert row.group == "b"


def test_other_fields_are_kept_and_can_group(write_jsonl: WriteJsonl) -> None:
    (row,) = read(write_jsonl([{**GOOD, "term": "CHF", "choices": ["a", "b"]}]), group_by="term")
    assert isinstance(row, Row)
    assert row.group == "CHF"
    assert row.meta == {"term": "CHF", "choices": ["a", "b"]}


@pytest.mark.parametrize("fields", [{}, {"term": ""}, {"term": 3}], ids=["missing", "empty", "number"])
def test_a_row_without_the_field_to_group_by_is_a_reject(
    write_jsonl: WriteJsonl, fields: dict[str, Any]
) -> None:
    (reject,) = read(write_jsonl([{**GOOD, **fields}]), group_by="term")
    assert isinstance(reject, Reject)
    assert (reject.field, reject.reason) == ("term", "no string 'term' to group by")


def test_the_system_message_of_the_spec_is_for_rows_that_bring_none(write_jsonl: WriteJsonl) -> None:
    own = {"messages": [{"role": "system", "content": "Be brief."}, *GOOD["messages"]]}
    rows = read(write_jsonl([GOOD, own]), system="Be kind.")
    assert [row.messages[0]["content"] for row in rows if isinstance(row, Row)] == ["Be kind.", "Be brief."]


def test_a_file_that_is_not_there_or_not_text_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.jsonl: no such file"):
        read(tmp_path / "absent.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(DataError, match=r"folder\.jsonl: is a folder"):
        read(tmp_path / "folder.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{}\n{"a": "caf\xe9"}\n')
    with pytest.raises(DataError, match=r"latin\.jsonl:2: not UTF-8 at byte 10"):
        read(tmp_path / "latin.jsonl")
