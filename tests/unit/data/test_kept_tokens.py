from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunebook_data import kept_tokens
from tunebook_data.kept_tokens import KeptTokens, rendering_key, row_key
from tunebook_data.rows import Row
from tunebook_model.render import Rendered, Renderer
from tunebook_run.clean import unused_tokens
from tunebook_spec.data import Checks
from tunebook_spec.errors import StoreError

MakeRow = Callable[..., Row]
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
TOOL: Any = {"type": "function", "function": {"name": "look", "description": None, "parameters": {}}}


@pytest.fixture
def model(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


def key_of(model: Path, cache: Path, **changes: Any) -> str:
    given = {"chat_template_kwargs": {}, "checks": Checks(), "format": 1, **changes}
    return rendering_key(model, cache_dir=cache, **given)


def edit(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    "change",
    [
        lambda model: edit(model / "tokenizer.json", version="2.0"),
        lambda model: edit(model / "tokenizer_config.json", split_special_tokens=True),
        lambda model: (model / "chat_template.jinja").write_text("{{ messages }}"),
        lambda model: edit(model / "generation_config.json", eos_token_id=[1]),
        lambda model: edit(model / "config.json", model_type="qwen3"),
        lambda model: (model / "added_tokens.json").write_text("{}"),
        lambda model: (model / "special_tokens_map.json").write_text("{}"),
    ],
    ids=["tokenizer", "its configuration", "template", "end of turn", "class", "added", "special"],
)
def test_every_file_that_decides_tokens_moves_the_key(
    model: Path, tmp_path: Path, change: Callable[[Path], object]
) -> None:
    before = key_of(model, tmp_path)
    change(model)
    assert key_of(model, tmp_path) != before


@pytest.mark.parametrize(
    "changes",
    [
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"checks": Checks(on_too_long="truncate_left")},
        {"format": 2},
    ],
    ids=["template arguments", "rows are cut", "our own code and its mask policy"],
)
def test_every_argument_that_decides_tokens_moves_the_key(
    model: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    assert key_of(model, tmp_path, **changes) != key_of(model, tmp_path)


def test_the_limit_moves_the_key_where_rows_are_cut_to_it(model: Path, tmp_path: Path) -> None:
    cut, other = (Checks(on_too_long="truncate_left", max_tokens=n) for n in (100, 200))
    assert key_of(model, tmp_path, checks=cut) != key_of(model, tmp_path, checks=other)


@pytest.mark.parametrize("library", kept_tokens.LIBRARIES)
def test_every_library_that_decides_tokens_moves_the_key(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    before, installed = key_of(model, tmp_path), kept_tokens.version
    monkeypatch.setattr(kept_tokens, "version", lambda name: "999" if name == library else installed(name))
    assert key_of(model, tmp_path) != before


def test_what_decides_no_token_leaves_the_key(model: Path, tmp_path: Path) -> None:
    before = key_of(model, tmp_path)
    (model / "model.safetensors").write_bytes(b"other weights")
    (model / "README.md").write_text("words")
    assert key_of(model, tmp_path, checks=Checks(max_tokens=77, min_response_chars=1)) == before


ROW = Row(
    id="a",
    messages=(
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "Seen.", "tool_call_id": "call_1"},
        {"role": "assistant", "content": "It is blue."},
    ),
    task="t",
    group="g",
    source="s",
    line=1,
    tools=(TOOL,),
)


@pytest.mark.parametrize(
    ("at", "fields"),
    [
        (0, {"content": "Be brief."}),
        (1, {"content": "Look!"}),
        (1, {"role": "assistant"}),
        (2, {"weight": 0}),
        (2, {"tool_calls": [{**CALL, "id": "call_2"}]}),
        (2, {"tool_calls": [{**CALL, "function": {"name": "look", "arguments": '{"at": 1}'}}]}),
        (3, {"name": "look"}),
        (4, {"content": "It is red."}),
    ],
    ids=["system", "question", "role", "weight", "id of a call", "arguments", "name", "answer"],
)
def test_all_that_a_template_is_shown_of_a_message_moves_a_row(at: int, fields: dict[str, Any]) -> None:
    messages = [*ROW.messages]
    messages[at] = {**messages[at], **fields}  # type: ignore[typeddict-item]
    assert row_key(replace(ROW, messages=tuple(messages))) != row_key(ROW)


def test_tools_move_a_row_and_where_it_comes_from_does_not() -> None:
    assert row_key(replace(ROW, tools=())) != row_key(ROW)
    moved = replace(ROW, id="b", task="u", group="h", source="z", line=2, meta={"topic": "x"}, spoken="no")
    assert row_key(moved) == row_key(ROW)


def rendered(*ids: int) -> Rendered:
    return Rendered(np.array(ids, np.int32), np.arange(len(ids)) >= 2)


def kept(folder: Path, checks: Checks | None = None) -> KeptTokens:
    return KeptTokens(folder, "key", checks or Checks())


def keep(folder: Path, *rows: Row) -> None:
    with kept(folder) as known:
        for number, row in enumerate(rows):
            known.keep(row, row, rendered(7, 8, 9, number))


def look_up(known: KeptTokens, row: Row) -> tuple[Row, Rendered]:
    place = known.find(row)
    assert place is not None
    return known.read(row, place)


def files(folder: Path) -> list[Path]:
    return sorted((folder / "tokens" / "key").glob("*"))


def test_a_known_row_is_what_was_kept_bit_for_bit(tmp_path: Path, make_row: MakeRow) -> None:
    rows = [make_row(f"What is {n}?") for n in range(50)]
    keep(tmp_path, *rows[:30])
    keep(tmp_path, *rows[30:])
    assert len(files(tmp_path)) == 2
    with kept(tmp_path) as known:
        for number, row in enumerate(rows):
            found = look_up(known, replace(row, id="other", line=9))
            assert found[0].id == "other"
            assert found[1].input_ids.tolist() == [7, 8, 9, number if number < 30 else number - 30]
            assert found[1].loss_mask.tolist() == [False, False, True, True]
        assert known.find(make_row("What is 50?")) is None
        assert (known.num_asked, known.num_known) == (51, 50)


def test_a_known_row_that_is_too_long_now_is_none(tmp_path: Path, make_row: MakeRow) -> None:
    row = make_row("What?")
    with kept(tmp_path) as known:
        known.keep(row, row, rendered(*range(9)))
    assert kept(tmp_path, Checks(max_tokens=9)).find(row) is not None
    assert kept(tmp_path, Checks(max_tokens=8)).find(row) is None


def test_a_row_that_was_cut_is_cut_again(tmp_path: Path, renderer: Renderer) -> None:
    turns = [turn for n in range(4) for turn in (("user", f"Ask {n}?"), ("assistant", f"Told {n} times."))]
    said: Any = ({"role": "system", "content": "Be kind."}, *({"role": r, "content": c} for r, c in turns))
    row = replace(ROW, messages=said, tools=())
    fitting = replace(row, messages=(row.messages[0], *row.messages[-4:]))
    with kept(tmp_path) as known:
        known.keep(row, fitting, renderer.render(fitting.messages))
    assert look_up(kept(tmp_path), row)[0] == fitting


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: b"",
        lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:],
    ],
    ids=["cut short", "empty", "a bit has flipped"],
)
def test_a_damaged_file_is_told_deleted_and_not_trusted(
    tmp_path: Path, make_row: MakeRow, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes]
) -> None:
    first, second = make_row("One?"), make_row("Two?")
    keep(tmp_path, first)
    (path,) = files(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    keep(tmp_path, second)
    (warning,) = caplog.messages
    assert f"{path} is damaged and deleted; its rows are tokenised again" in warning
    assert not path.exists()
    with kept(tmp_path) as known:
        assert known.find(first) is None
        assert known.find(second) is not None


def test_a_file_that_is_deleted_stays_readable_where_it_is_in_use(tmp_path: Path, make_row: MakeRow) -> None:
    row = make_row("What?")
    keep(tmp_path, row)
    with kept(tmp_path) as known:
        for path in unused_tokens(tmp_path, keep=0):
            path.unlink()
        assert known.find(row) is not None
    assert kept(tmp_path).find(row) is None


def test_clean_takes_what_no_run_has_read_for_a_month(tmp_path: Path, make_row: MakeRow) -> None:
    read, unread = make_row("Read?"), make_row("Unread?")
    keep(tmp_path, unread)
    keep(tmp_path, read)
    long_ago = time.time() - 31 * 24 * 3600
    for path in files(tmp_path):
        os.utime(path, (long_ago, long_ago))
    with kept(tmp_path) as known:
        assert known.find(read) is not None
    (unused,) = unused_tokens(tmp_path, keep=1)
    unused.unlink()
    assert kept(tmp_path).find(read) is not None
    assert len(unused_tokens(tmp_path, keep=0)) == 1


def test_a_folder_that_cannot_be_written_is_named_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("in the way")
    with pytest.raises(StoreError, match=r"tokens/key: tokens cannot be kept there .*TUNEBOOK_CACHE_DIR"):
        kept(tmp_path)
