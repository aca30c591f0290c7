from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from tunebook_data.rows import Row, content_id
from tunebook_model.conversation import Message
from tunebook_model.render import Renderer

MakeRow = Callable[..., Row]


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEBOOK_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def make_row() -> MakeRow:
    def make(question: str, answer: str = "It is certainly blue.", **fields: Any) -> Row:
        messages: tuple[Message, ...] = (
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        )
        row_id = content_id("task", messages)
        known = {"id": row_id, "task": "task", "group": row_id, "source": "rows.jsonl", "line": 1}
        return Row(**{"messages": messages, **known, **fields})

    return make


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Write lines (bytes as they are, anything else as JSON) to a file in tmp_path."""

    def write(lines: list[Any], name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.write_bytes(
            b"\n".join(line if isinstance(line, bytes) else orjson.dumps(line) for line in lines)
        )
        return path

    return write


@pytest.fixture(scope="session")
def renderer(tiny_llama: Path) -> Renderer:
    return Renderer.load(tiny_llama, {})
