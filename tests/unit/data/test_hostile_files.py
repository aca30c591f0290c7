"""Of a hostile file either every row is accounted for, or there is one clear error."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unit.data.reading import GOOD, ROW, read
from tunebook_data.rejects import Reject
from tunebook_data.rows import Row
from tunebook_spec.errors import DataError


@dataclass(frozen=True)
class Case:
    name: str
    content: bytes | Callable[[Path], object]
    """Of the file, or what makes it."""
    rows: tuple[int, ...] = ()
    """Lines of the rows that are kept."""
    rejects: tuple[tuple[int, str, str], ...] = ()
    """Line, field and reason of each reject."""
    error: str = ""
    """In the words of the one error, a pattern."""


def lines(*each: bytes) -> bytes:
    return b"\n".join(each) + b"\n"


def content(value: object) -> bytes:
    return orjson.dumps({"messages": [{"role": "user", "content": value}, GOOD["messages"][1]]})


def table(*columns: pa.Array) -> Callable[[Path], object]:
    names = ["prompt", "completion", "more"]
    return lambda path: pq.write_table(pa.table(dict(zip(names, columns, strict=False))), path)


def loop(path: Path) -> None:
    path.with_name("there").symlink_to(path.name)
    path.symlink_to("there")


def cut(path: Path) -> None:
    table(pa.array(["Hi"] * 9), pa.array(["Yes."] * 9))(path)
    path.write_bytes(path.read_bytes()[:-20])


NOT_JSON, NOT_TEXT = ("", "not JSON"), ("", "not UTF-8")
TEXT = "messages[0].content"
HI, NOT_UTF8 = pa.array(["Hi"]), pa.array([b"\xff\xfe", b"Hi"]).view(pa.string())
ALPACA = b'{"instruction": "Hi", "output": "Hello."}'
PREFERENCE = b'{"input": {}, "preferred_output": [], "non_preferred_output": []}'
TWICE = b'{"messages": [], "messages"' + ROW.removeprefix(b'{"messages"')
LONG = content("x" * 50_000_000)
MEGABYTE = 1 << 20

CASES = {
    "bad UTF-8": Case("a.jsonl", lines(ROW, content("cafe")[:-9] + b"\xe9", ROW), (1, 3), ((2, *NOT_TEXT),)),
    "UTF-16": Case("a.jsonl", ROW.decode().encode("utf-16"), (), ((1, *NOT_TEXT),)),
    "byte order mark": Case("a.jsonl", b"\xef\xbb\xbf" + lines(ROW, ROW), (1, 2)),
    "CRLF": Case("a.jsonl", lines(ROW, b"", ROW).replace(b"\n", b"\r\n"), (1, 3)),
    "cut off line": Case("a.jsonl", lines(ROW, ROW[:40]), (1,), ((2, *NOT_JSON),)),
    "cut off list": Case(
        "a.json", b"[" + ROW + b"," + ROW[:40], error=r"a\.json: ends inside the list, after row 1"
    ),
    "cut off object": Case("a.json", b'{"rows": [' + ROW + b"]", error="ends inside the object"),
    "50 MB line": Case("a.jsonl", lines(ROW, LONG, LONG[:-1], ROW), (1, 2, 4), ((3, *NOT_JSON),)),
    "50 MB item": Case("a.json", b"[" + ROW + b"," + LONG + b"," + ROW + b"]", (1, 2, 3)),
    "nested lists": Case(
        "a.jsonl", lines(ROW, b"[[1]]", b"[" * 9**6), (1,), ((2, "", "not a JSON object"), (3, *NOT_JSON))
    ),
    "null content": Case("a.jsonl", lines(ROW, content(None)), (1,), ((2, TEXT, "content is not a string"),)),
    "number as content": Case(
        "a.jsonl", lines(ROW, content(7)), (1,), ((2, TEXT, "content is not a string"),)
    ),
    "wrong role": Case(
        "a.jsonl",
        lines(ROW, ROW.replace(b"user", b"robot")),
        (1,),
        ((2, "messages[0].role", "role is none of system, user, assistant, tool"),),
    ),
    "duplicate keys": Case("a.jsonl", TWICE, (1,)),  # the last one counts, as JSON readers do
    "mixed formats": Case(
        "a.jsonl", lines(ROW, ALPACA, ROW), (1, 3), ((2, "messages", "no list of messages"),)
    ),
    "no bytes": Case("a.jsonl", b"", error="is an empty file: .*/a.jsonl"),
    "zero bytes": Case("a.jsonl", b"\0" * MEGABYTE, (), ((1, *NOT_JSON),)),
    "a folder": Case("a.jsonl", Path.mkdir, error=r"is a folder: .*/a\.jsonl; name its files by a glob"),
    "gzip that ends early": Case(
        "a.jsonl.gz",
        gzip.compress(lines(ROW, ROW))[:-9],
        error=r"a\.jsonl\.gz: cannot be read to its end \(Com",
    ),
    "no gzip": Case("a.csv.gz", b"prompt,completion\n", error=r"to its end \(Not a gzipped file"),
    "NaN": Case("a.jsonl", lines(ROW, b'{"messages": [], "a": NaN}'), (1,), ((2, *NOT_JSON),)),
    "NaN in a list": Case("a.json", b"[NaN, " + ROW + b", ]", (2,), ((1, *NOT_JSON), (3, *NOT_JSON))),
    "half a surrogate": Case("a.jsonl", lines(ROW, rb'{"messages": "\ud800"}'), (1,), ((2, *NOT_JSON),)),
    "emoji and right-to-left": Case(
        "a.jsonl", lines(content("\U0001f98a \u05e9\u05dc\u05d5\u05dd \u202e"), ROW), (1, 2)
    ),
    "a million empty lines": Case("a.jsonl", b"\n" * 10**6 + ROW, (10**6 + 1,)),
    "a thousand lines of text": Case(
        "a.jsonl", b"x\n" * 1000 + ROW, error="none of its first 1000 rows can be read"
    ),
    "999 lines of text": Case(
        "a.jsonl", b"x\n" * 999 + ROW, (1000,), tuple((n, *NOT_JSON) for n in range(1, 1000))
    ),
    "a list after the list": Case("a.json", b"[" + ROW + b"] []", error="goes on after its first JSON value"),
    "lines called .json": Case("a.json", lines(ROW, ROW), error="goes on after its first JSON value"),
    "two lists": Case("a.json", b'{"a": [' + ROW + b'], "b": []}', error='has two lists, "a" and "b"'),
    "an object alone": Case("a.json", b'{"a": 1}', error="an object without a list of rows"),
    "brackets that do not match": Case(
        "a.json", b"[" + ROW + b", {[}, 1]", error="after row 1.*bracket is missing"
    ),
    "a JSON string": Case("a.json", b'"rows"', error="neither a JSON list nor"),
    "CSV with line ends in cells": Case(
        "a.csv",
        b'prompt,completion\r\n"a\r\nb",c\r\n\r\n"d\n",\n1,2,3\ng,h\xff\ni,j\n',
        (2, 5, 9),
        ((7, "", "not as many cells as the header has"), (8, *NOT_TEXT)),
    ),
    "CSV with an open quote": Case("a.csv", b'prompt,completion\na,b\n"c,d\n', error=r"a\.csv:3: not CSV"),
    "CSV with a column twice": Case(
        "a.csv", b"prompt,prompt\na,b\n", error="two columns are called 'prompt'"
    ),
    "CSV of another separator": Case(
        "a.csv", b"prompt;completion\na;b\n", error="fields are prompt;completion"
    ),
    "Parquet of another schema": Case(
        "a.parquet",
        lambda path: pq.write_table(pa.table({"a": [1], "b": [2]}), path),
        error=r"no known format; its fields are a, b; known are messages \(messages\); .* under `columns`",
    ),
    "Parquet of other types": Case(
        "a.parquet", table(pa.array([1]), HI), (), ((1, "prompt", "'prompt' is not a string"),)
    ),
    "Parquet with bytes": Case(
        "a.parquet", table(HI, HI, pa.array([b"x"])), (), ((1, "", "holds a value that JSON cannot hold"),)
    ),
    "Parquet that is not UTF-8": Case(
        "a.parquet", table(NOT_UTF8, pa.array(["Yes.", "No."])), (2,), ((1, *NOT_TEXT),)
    ),
    "Parquet that ends early": Case("a.parquet", cut, error=r"a\.parquet: cannot be read to its end"),
    "Arrow that is text": Case("a.arrow", ROW, error=r"a\.arrow: cannot be read to its end"),
    "symlink loop": Case("a.jsonl", loop, error=r"cannot be read \(Too many levels of symbolic links\)"),
    "an unknown ending": Case(
        "a.txt", ROW, error=r"'a\.txt' does not say what kind of file it is; known: \.jsonl,"
    ),
    "packed Parquet": Case("a.parquet.gz", ROW, error=r"'a\.parquet\.gz' does not say"),
    "preferences of nothing": Case(
        "a.jsonl",
        lines(PREFERENCE, ROW, PREFERENCE),
        (),
        (
            (1, "input.messages", "no list of messages"),
            (2, "input", "no object 'input'"),
            (3, "input.messages", "no list of messages"),
        ),
    ),
    "of no format": Case("a.jsonl", lines(b"{}", b'{"messages": null}'), error="its fields are none"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_row_is_kept_or_accounted_for_or_there_is_one_error(tmp_path: Path, case: Case) -> None:
    path = tmp_path / case.name
    if isinstance(case.content, bytes):
        path.write_bytes(case.content)
    else:
        case.content(path)
    if case.error:
        with pytest.raises(DataError) as caught:
            read(tmp_path, case.name)
        assert re.search(case.error, str(caught.value)), str(caught.value)
        return
    items = read(tmp_path, case.name)
    assert tuple(item.line for item in items if isinstance(item, Row)) == case.rows
    rejects = [item for item in items if isinstance(item, Reject)]
    assert tuple((each.line, each.field, each.reason) for each in rejects) == case.rejects
    assert all(each.source == case.name and len(each.value) < 300 for each in rejects)
    orjson.dumps([item.messages if isinstance(item, Row) else item.value for item in items])
