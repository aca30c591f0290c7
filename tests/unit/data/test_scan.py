"""The scan of JSONL files says of every line what the way of one row at a time says."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.unit.data.reading import ROW
from tests.unit.data.test_hostile_files import CASES, lines
from tunebook_data import scan as scan_module
from tunebook_data import workers
from tunebook_data.checks import judged
from tunebook_data.digest import SEPARATOR, digest
from tunebook_data.plain_lines import plain_lines
from tunebook_data.rejects import Flag, Reject
from tunebook_data.rows import Row, identity
from tunebook_data.scan import scan
from tunebook_data.sources import read_source
from tunebook_model.conversation import FunctionCall, FunctionTool, Message, ToolCall
from tunebook_spec.data import Checks, FileSource, RowFormat
from tunebook_spec.errors import DataError

DEFAULT, ALLOWING = Checks(), Checks(refusals="allow", personal_data="allow")
EVERY_CHECKS = [
    DEFAULT,
    ALLOWING,
    Checks(damaged_text="allow", refusals="drop", personal_data="mask"),
    Checks(damaged_text="flag", refusals="drop", personal_data="drop"),
    Checks(min_response_chars=1, max_response_chars=60, answer_schema={"other": {"type": "object"}}),
    Checks(answer_schema={"task": {"type": "object"}}),
]


@pytest.fixture(autouse=True)
def lines_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """In files of every size."""
    monkeypatch.setattr(scan_module, "LOOKED_AT_BYTES", 0)


def both_ways(
    path: Path,
    checks: Checks,
    *,
    form: RowFormat = "messages",
    group_by: str | None = None,
    system: str | None = None,
) -> list[tuple[int, int, Sequence[Row], list[bytes], Sequence[Reject], Sequence[Flag]]]:
    source = FileSource.model_validate(
        {
            "kind": "file",
            "path": path.name,
            "task": "task",
            "format": form,
            "split": {"group_by": group_by},
        }
    )
    (part,) = read_source(source, system=system, spec_dir=path.parent, assets_dir=path.parent, seed=0)
    assert part.lines is not None
    rows: list[Row] = []
    rejects: list[Reject] = []
    flags: list[Flag] = []
    items = list(part.items)
    num_parsed = sum(isinstance(item, Row) for item in items)
    for item in items:
        outcome = judged(item, checks)
        if isinstance(outcome, Reject):
            rejects.append(outcome)
        else:
            rows.append(outcome[0])
            flags += outcome[1]
    found = scan(part.lines, checks)
    digests = [each.tobytes() for each in found.rows.digests]
    return [
        (len(items), num_parsed, rows, [*map(digest, rows)], rejects, flags),
        (found.num_records, found.num_parsed, list(found.rows), digests, found.rejects, found.flags),
    ]


HOSTILE = [
    name
    for name, case in CASES.items()
    if case.name == "a.jsonl" and isinstance(case.content, bytes) and 0 < len(case.content) < 10_000_000
]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("checks", [DEFAULT, ALLOWING], ids=["default", "allowing"])
def test_a_hostile_file_is_the_same_both_ways(tmp_path: Path, name: str, checks: Checks) -> None:
    content, path = CASES[name].content, tmp_path / "a.jsonl"
    assert isinstance(content, bytes)
    path.write_bytes(content)
    one, other = both_ways(path, checks)
    assert one == other


TEXTS = [
    "What colour is the sky?",
    "It is certainly blue.",
    "  ",
    "",
    'a\nb\tc "quoted" \\ back / slash \\b \\u0041',
    "no",
    "\u00e9t\u00e9 \u2019 \u65e5\u672c\u8a9e \U0001f98a",
    "caf\u00c3\u00a9 twice over",
    "bell \x07 rings out loud",
    "\u0085 next line stands here",
    "nul \0 and \0\1 in a text",
    "I'm sorry, but I can't help with that.",
    "I\u2019m sorry, but I can\u2019t assist you.",
    "As an  AI\nlanguage model I know this.",
    "\uff53\uff4f\uff52\uff52\uff59, I cannot assist you with this.",
    "i CANNOT comply with what is asked.",
    "Unfortunately, we are unable to answer now.",
    "write to jane@doe-mail.org about it",
    "call +49 30 1234567 or (212) 736-5000",
    "call 212 736-5000 or 212.736.5000 now",
    "call \u0664\u0669\u0663-555 +\u0664\u0669 30 1234567",
    "card 4111 1111 1111 1111 is for tests",
    "123-45-6789 is a number of its own",
    "DE89 3704 0044 0532 0130 00 gets money",
    "hf_abcdefghijklmnopqrstuvwxyzABCDEF123",
    "-----BEGIN RSA PRIVATE KEY----- abc",
    "\ufffd was here, and it stayed",
    "it\u00e2\u20ac\u2122s \u00c2\u00a3 5",
    "a \u00f0\u0178\u2122 laughs at this",
    "\u00c3 and \u00e2 stand alone",
    "\u2003\u3000\u1680\u205f\u00a0",
    "\u007f was deleted from here",
    "x" * 4001,
]


def tool(name: str) -> FunctionTool:
    return {"type": "function", "function": {"name": name, "description": None, "parameters": None}}


def call(name: str, city: str, number: int = 1) -> ToolCall:
    function: FunctionCall = {"name": name, "arguments": orjson.dumps({"city": city}).decode()}
    return {"id": f"call_{number}", "type": "function", "function": function}


ROLES = ["system", "user", "assistant", "tool", "robot", None, 7]


def random_record(rng: random.Random) -> Any:
    if rng.random() < 0.7:
        turns = rng.choice([1, 1, 2, 3])
        messages: list[Any] = [
            {"role": role, "content": rng.choice(TEXTS)}
            for _ in range(turns)
            for role in ("user", "assistant")
        ]
        if rng.random() < 0.3:
            messages.insert(0, {"role": "system", "content": rng.choice(["Be kind.", rng.choice(TEXTS)])})
    else:
        messages = [
            {"role": rng.choice(ROLES), "content": rng.choice(TEXTS)} for _ in range(rng.randrange(5))
        ]
    if rng.random() < 0.1 and messages:
        messages[rng.randrange(len(messages))] = rng.choice(
            [
                None,
                "text",
                {"role": "user"},
                {"content": "x", "role": "user", "name": "a"},
                {"role": "user", "content": 5},
            ]
        )
    if rng.random() < 0.3:
        messages += tool_turns(rng)
    for message in messages:
        if isinstance(message, dict) and message.get("role") == "assistant" and rng.random() < 0.1:
            message["weight"] = rng.choice([0, 1, None, 2, True])
    record: dict[str, Any] = {"messages": messages}
    more: list[tuple[str, Any]] = [
        ("topic", rng.choice(["a", "b", "", None, 3, "\u00e9"])),
        ("tools", rng.choice([None, [], "[]", [1], *[[tool("get_weather")]] * 6])),
        ("functions", rng.choice([None, [], "f"])),
        ("meta", {"a": [1, 2.5, None, True, "x"], "mail": rng.choice(["", "a@b-c.de"])}),
        ("messages_", 1),
    ]
    record.update(each for each in more if rng.random() < 0.4)
    return rng.choice([record] * 30 + [messages, 5, None, "text", {}])


def tool_turns(rng: random.Random) -> list[Any]:
    """A question that is answered by way of a call, or ends in one; not every one is sound."""
    asks = call(rng.choice(["get_weather", "get_weather", "get_time"]), rng.choice(TEXTS))
    calls = {"role": "assistant", "content": rng.choice([None, "", "Let me see."]), "tool_calls": [asks]}
    told = {"role": "tool", "content": rng.choice(TEXTS), "tool_call_id": rng.choice(["call_1"] * 4 + ["no"])}
    answer = {"role": "assistant", "content": rng.choice(TEXTS)}
    whole = [{"role": "user", "content": rng.choice(TEXTS)}, calls, told, answer]
    return whole[: rng.choice([2, 4, 4])]


def spoiled(line: bytes, rng: random.Random) -> bytes:
    """A line with a few bytes changed, in places where JSON is decided."""
    data = bytearray(line)
    for _ in range(rng.choice([1, 1, 2])):
        at = rng.randrange(len(data)) if data else 0
        pieces = [
            b"",
            b'"',
            b"\\",
            b",",
            b"}",
            b"]",
            b"{",
            b"0",
            b"NaN",
            b"1e",
            b"-",
            b"\xff",
            b"\xc3",
            b"\x01",
            b"\t",
        ]
        pieces += [
            rb"\ud800",
            rb"\u0007",
            rb"\x",
            b"null",
            b"tru",
            b"01",
            b"1.",
            b" ",
            b"\r",
            b'"a":1,',
            b"\x7f",
        ]
        data[at : at + rng.randrange(2)] = rng.choice(pieces)
    return bytes(data).replace(b"\n", b" ")


@pytest.mark.parametrize("seed", range(4))
def test_any_lines_are_the_same_both_ways(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(scan_module, "POOL_RANGES", 10**6)
    monkeypatch.setattr(scan_module, "RANGE_BYTES", 3000)
    monkeypatch.setattr(scan_module, "_BLOCK_BYTES", 1000)
    made = []
    for _ in range(300):
        line = orjson.dumps(random_record(rng))
        if rng.random() < 0.2:
            line = json_ascii(line)
        made.append(spoiled(line, rng) if rng.random() < 0.5 else line)
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(*made, *rng.choices(made, k=50), b"", b" \r"))
    for checks in EVERY_CHECKS:
        group_by, system = rng.choice(
            [(None, None), ("topic", None), (None, "Be kind."), ("topic", "nul \0.")]
        )
        one, other = both_ways(path, checks, group_by=group_by, system=system)
        assert one == other


def test_a_file_too_small_to_be_looked_at_is_the_same_both_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_module, "LOOKED_AT_BYTES", 10**6)
    monkeypatch.setattr(scan_module, "plain_lines", None)
    rng, path = random.Random(0), tmp_path / "a.jsonl"
    path.write_bytes(lines(*(orjson.dumps(random_record(rng)) for _ in range(100)))[:-1])
    one, other = both_ways(path, ALLOWING)
    assert one == other


def chat(*contents: str, **fields: Any) -> bytes:
    """A line with two messages, or three where the first is of the system."""
    roles = ["system", "user", "assistant"][-len(contents) :]
    messages = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=True)]
    return orjson.dumps({**fields, "messages": messages, "topic": "a"})


PLAIN = {
    "text": chat("Is it so?", "It is indeed."),
    "system": chat("Be kind.", "Is it so?", "It is indeed."),
    "escapes": chat('a\nb\t"c" \\ d', "It is\r\n\n indeed /."),
    "long": chat("Is it so? " * 50, "It is indeed. " * 50),
    "beyond ASCII": chat("\u65e5\u672c\u8a9e?", "\u00e9t\u00e9 \u2019 \u65e5\u672c\u8a9e \U0001f98a"),
    "beyond ASCII alone": chat("\u65e5\u672c\u8a9e", "\u3042" * 10),
    "escaped beyond ASCII": rb'{"messages":[{"role":"user","content":"\u00e9\u0041"},{"content":"\u65e5 '
    rb'\ud83e\udd8a, it is so.","role":"assistant"}], "topic": "a"}',
    "more fields": chat("Is it so?", "It is indeed.", n=[-1.5e-3, 0, None, True, False, {"a": [], "b": {}}]),
    "no tools": chat("Is it so?", "It is indeed.", tools=None),
    "blanks": b' \t{ "topic" : "a" , "messages" : [ { "role" : "user" , "content" : "Is it?" } , '
    b'{ "role" : "assistant" , "content" : "It is indeed." } ] } \r',
}


@pytest.mark.parametrize("line", PLAIN.values(), ids=PLAIN)
def test_a_plain_line_is_told_without_a_parser(line: bytes) -> None:
    found = plain_lines(line + b"\n{}\n" + line + b"\n", "topic", 10, 4000)
    messages = orjson.loads(line)["messages"]
    texts = [found.texts[: found.text_ends_L[0]].tobytes(), found.texts[found.text_ends_L[1] :].tobytes()]
    assert found.num_messages_L.tolist() == [len(messages), 0, len(messages)]
    assert texts[0].decode() == SEPARATOR.join(message["content"] for message in messages)
    assert texts[1].startswith(texts[0])


@pytest.mark.parametrize(
    "some", ["", '"', "\\", "\n", "\u00e9", "\u65e5", "\U0001f98a", "\x01", "\x7f"], ids=repr
)
def test_what_a_text_holds_is_told_wherever_it_stands(some: str) -> None:
    texts = [f"{'a' * before}{some}{'b' * after}{some}" for before in range(18) for after in range(1, 18)]
    lines = b"".join(chat("Is it so?", f"{text} {text}") + b"\n" for text in texts)
    found = plain_lines(lines, None, 1, 100)
    is_plain = some not in ("\x01", "\x7f")
    assert set(found.num_messages_L.tolist()) == {2 * is_plain}
    told = found.texts[: found.text_ends_L[-1]].tobytes().decode()
    assert told == "".join(f"Is it so?{SEPARATOR}{text} {text}" for text in texts if is_plain)
    assert (found.is_odd_L[found.num_messages_L > 0] == (not some.isascii())).all()


@pytest.mark.parametrize("more", [b"x", b"}", b",{}", b"{}", b"\x00"], ids=repr)
def test_what_stands_after_a_record_makes_its_line_no_plain_one(more: bytes) -> None:
    line = chat("Is it so?", "It is indeed.")
    found = plain_lines(b"\n".join([line + more, line, b""]), None, 10, 4000)
    assert found.ends_L.tolist() == [len(line + more), 2 * len(line) + len(more) + 1]
    assert found.num_messages_L.tolist() == [0, 2]


@pytest.mark.parametrize("answer", ["a" * 9, "a" * 101, "\u00e9" * 9, "\u65e5" * 101])
def test_lengths_are_counted_in_characters(answer: str) -> None:
    lines = chat("Is it so?", answer), chat("Is it so?", "\u65e5" * 100), chat("Is it so?", "\u00e9" * 10)
    found = plain_lines(b"\n".join([*lines, b""]), None, 10, 100)
    assert found.num_messages_L.tolist() == [0, 2, 2]


@pytest.mark.parametrize("seed", range(4))
def test_any_preferences_are_the_same_both_ways(tmp_path: Path, seed: int) -> None:
    rng, path = random.Random(seed), tmp_path / "a.jsonl"
    path.write_bytes(lines(*(orjson.dumps(random_preference(rng)) for _ in range(200))))
    for checks in EVERY_CHECKS:
        one, other = both_ways(path, checks, form="preference", group_by=rng.choice([None, "topic"]))
        assert one == other


def random_preference(rng: random.Random) -> Any:
    record = random_record(rng)
    if not isinstance(record, dict) or "messages" not in record:
        return record
    *asked, _ = record["messages"] or [None]
    answers = [[{"role": "assistant", "content": rng.choice(TEXTS)}] for _ in range(2)]
    more = {key: record[key] for key in ("tools", "functions") if key in record}
    outputs = dict(zip(("preferred_output", "non_preferred_output"), answers, strict=True))
    return {"input": {"messages": asked, **more}, **outputs, "topic": record.get("topic", "a")}


@pytest.mark.parametrize(
    ("fields", "changes"),
    [
        ({"tools": [tool("get_weather")]}, {}),
        ({}, {"weight": 0}),
        ({"tools": [tool("get_weather")]}, {"tool_calls": [call("get_weather", "Oslo")], "content": None}),
        ({}, {"weight": 1}),
        ({}, {"weight": 2}),
        ({}, {"name": "ada"}),
        ({"functions": [{"name": "f"}]}, {}),
        ({"tools": "[]"}, {}),
    ],
    ids=["tools", "weight 0", "call", "weight 1", "weight 2", "name", "functions", "tools as text"],
)
def test_what_is_more_than_text_is_read_as_any_other_file_is(
    tmp_path: Path, fields: dict[str, Any], changes: dict[str, Any]
) -> None:
    plain = [{"role": "user", "content": "Is it so?"}, {"role": "assistant", "content": "It is indeed."}]
    changed = [plain[0], {**plain[1], **changes}, *plain, plain[0], {**plain[1], **changes}]
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(*(orjson.dumps({**fields, "messages": each}) for each in (plain, changed))))
    one, other = both_ways(path, ALLOWING)
    assert one == other


def test_digests_are_equal_where_identities_are() -> None:
    calls: list[Any] = [call("get_weather", city, number) for city, number in (("Oslo", 1), ("Oslo", 2))]
    more: list[dict[str, Any]] = [
        {},
        {"weight": 0},
        {"tool_calls": [calls[0]]},
        {"tool_calls": [calls[1]]},
        {"tool_calls": [call("get_weather", "Rome")]},
        {"tool_calls": [call("get_time", "Oslo")]},
        {"tool_calls": calls},
    ]
    asked: Message = {"role": "user", "content": "Is it so?"}
    rows = [
        Row("", (asked, {"role": "assistant", "content": "Yes.", **each}), "task", "", "", 0, {}, tools)  # type: ignore[typeddict-item]
        for each in more
        for tools in ((), (tool("get_weather"),), (tool("get_time"),))
    ]
    same = [identity(row.task, row.messages, row.tools) for row in rows]
    pairs = [(i, j) for i in range(len(rows)) for j in range(i)]
    assert any(same[i] == same[j] for i, j in pairs)
    for i, j in pairs:
        assert (digest(rows[i]) == digest(rows[j])) == (same[i] == same[j])


def json_ascii(line: bytes) -> bytes:
    """The same JSON with every character beyond ASCII as an escape."""
    return (
        line.decode()
        .encode("ascii", "backslashreplace")
        .replace(b"\\x", b"\\u00")
        .replace(b"\\U0001f98a", rb"\ud83e\udd8a")
    )


GARBAGE = [
    b"01",
    b"1.",
    b".5",
    b"+1",
    b"1e",
    b"-",
    b"NaN",
    b"Infinity",
    b"nul",
    b"tru",
    b"[1,]",
    b'{"a":1,}',
    b"{1:2}",
]
GARBAGE += [
    b'{"a" 1}',
    b"[1 2]",
    b'"\\x"',
    b'"\\u12"',
    b'"\\ud800"',
    b'"a\tb"',
    b'"\xff"',
    b"'a'",
    b"[",
    b"]",
    b"{]",
    b'"',
]
GARBAGE += [
    b'"\xed\xa0\x80"',
    b'"\xc0\x80"',
    b'"\xe0\x80\x80"',
    b'"\xf0\x80\x80\x80"',
    b'"\xf4\x90\x80\x80"',
    b'"\xe6\x97"',
    rb'"\udc00"',
    rb'"\ud800\u0041"',
    b"1e400",
    b"9" * 400,
]
GARBAGE += [b"[" * 5000 + b"]" * 5000, b"1e999", b"123456789012345678901234567890", b"0x1", b"// c", b"\x00"]


@pytest.mark.parametrize("value", GARBAGE, ids=repr)
def test_what_is_no_json_in_a_field_that_nothing_reads_is_a_reject_both_ways(
    tmp_path: Path, value: bytes
) -> None:
    row, path = chat("Is it so?", "It is indeed."), tmp_path / "a.jsonl"
    path.write_bytes(lines(row[:-1] + b', "more": ' + value + b"}", b'{"more": ' + value + b", " + row[1:]))
    one, other = both_ways(path, ALLOWING)
    assert one == other


def test_a_line_belongs_to_the_range_that_it_begins_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(*(ROW.replace(b"Hello", b"Hello" * (i % 7)) for i in range(60)))[:-1])
    whole = both_ways(path, ALLOWING)[0]
    monkeypatch.setattr(scan_module, "POOL_RANGES", 10**6)
    for num_bytes in range(1, 400, 29):
        monkeypatch.setattr(scan_module, "RANGE_BYTES", num_bytes)
        assert both_ways(path, ALLOWING)[1][:4] == whole[:4]


def test_a_big_file_is_the_same_on_all_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(0)
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(*(orjson.dumps(random_record(rng)) for _ in range(500))))
    monkeypatch.setattr(scan_module, "POOL_RANGES", 0)
    monkeypatch.setattr(workers.os, "sched_getaffinity", lambda _: {0, 1})
    one, other = both_ways(path, DEFAULT)
    assert one == other


def test_a_file_that_changes_under_its_rows_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(ROW))
    source = FileSource.model_validate({"kind": "file", "path": "a.jsonl", "task": "task"})
    (part,) = read_source(source, system=None, spec_dir=tmp_path, assets_dir=tmp_path, seed=0)
    assert part.lines is not None
    rows = scan(part.lines, Checks(min_response_chars=1)).rows
    path.write_bytes(b"x" * 500)
    with pytest.raises(DataError, match=r"a\.jsonl: has changed while it was read"):
        list(rows)
