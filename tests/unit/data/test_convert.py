from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from tunebook_data.convert import Converted, convert, new_file
from tunebook_data.rejects import Reject
from tunebook_spec.errors import DataError, InputError

WriteJsonl = Callable[..., Path]
USER, ASSISTANT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}
SYSTEM = {"role": "system", "content": "Be kind."}


def run(
    path: Path | str, *, keep_fields: bool = False
) -> tuple[list[dict[str, Any]], Converted, list[Reject]]:
    target, told = io.BytesIO(), []
    done = convert(str(path), target, keep_fields=keep_fields, tell=told.append)
    return [orjson.loads(line) for line in target.getvalue().splitlines()], done, told


@pytest.mark.parametrize(
    ("record", "messages"),
    [
        ({"messages": [USER, ASSISTANT]}, [USER, ASSISTANT]),
        (
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]},
            [USER, ASSISTANT],
        ),
        ({"instruction": "Hi", "output": "Hello.", "system": "Be kind."}, [SYSTEM, USER, ASSISTANT]),
        ({"prompt": "Hi", "completion": "Hello."}, [USER, ASSISTANT]),
    ],
    ids=["messages", "sharegpt", "alpaca", "prompt_completion"],
)
def test_every_known_format_becomes_messages(
    write_jsonl: WriteJsonl, record: dict[str, Any], messages: list[Any]
) -> None:
    rows, done, _ = run(write_jsonl([record, record]))
    assert rows == [{"messages": messages}] * 2
    assert (done.rows, done.rejects) == (2, 0)


def test_other_fields_are_left_out_and_told_or_kept(write_jsonl: WriteJsonl) -> None:
    path = write_jsonl(
        [{"prompt": "Hi", "completion": "Hello.", "topic": "a"}, {"prompt": "Hi", "completion": "Hello."}]
    )
    rows, done, _ = run(path)
    assert [list(row) for row in rows] == [["messages"], ["messages"]]
    assert done.left_out == {"topic": 1}
    assert "topic (1); --keep-fields" in done.summary()
    rows, done, _ = run(path, keep_fields=True)
    assert rows[0] == {"topic": "a", "messages": [USER, ASSISTANT]}
    assert "left out" not in done.summary()


def test_tools_calls_and_weights_are_written_as_they_were_read(write_jsonl: WriteJsonl) -> None:
    function = {"name": "look", "description": None, "parameters": {"type": "object", "properties": {}}}
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages = [
        {**USER},
        {**ASSISTANT, "weight": 0},
        {**USER},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "Blue.", "tool_call_id": "c1"},
        {**ASSISTANT},
    ]
    record = {"messages": messages, "tools": [{"type": "function", "function": function}]}
    rows, done, _ = run(write_jsonl([record]))
    assert rows == [record]
    assert done.left_out == {}


def test_rejects_are_told_with_their_line_and_no_secret(write_jsonl: WriteJsonl) -> None:
    rows, done, told = run(
        write_jsonl([{"messages": [USER, ASSISTANT]}, b"{ ada@uni-ulm.de", {"messages": "x"}])
    )
    assert (len(rows), done.rejects) == (1, 2)
    assert [(each.line, each.reason) for each in told] == [(2, "not JSON"), (3, "no list of messages")]
    assert told[0].value == "{ [EMAIL]"


def test_a_file_of_which_nothing_can_be_read_is_refused(write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of its 1 rows can be read"):
        run(write_jsonl([{"messages": "x"}]))
    with pytest.raises(DataError, match=r"no such file: .*nope\.jsonl$"):
        run(tmp_path / "nope.jsonl")
    with pytest.raises(InputError, match="holds no user or password"):
        run("https://me:secret@example.com/rows.jsonl")


def test_a_new_file_is_there_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    file = new_file(path, force=False)
    file.__enter__().write(b"half")
    assert not path.exists()
    assert not file.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert list(tmp_path.iterdir()) == []
    with new_file(path, force=False) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_file_that_is_there_stays_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"old")
    with pytest.raises(InputError, match=r"is there already; give --force"), new_file(path, force=False):
        raise AssertionError
    with new_file(path, force=True) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    path.unlink()
    with pytest.raises(InputError, match="File exists"), new_file(path, force=False) as file:
        path.write_bytes(b"meanwhile")
    assert path.read_bytes() == b"meanwhile"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="cannot be written"),
        new_file(tmp_path / "no" / "a.jsonl", force=False),
    ):
        raise AssertionError
