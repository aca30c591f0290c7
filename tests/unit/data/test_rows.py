from pathlib import Path

import pytest

from tunebook_data.rows import Row, content_id, read_rows, write_rows
from tunebook_model.conversation import Message
from tunebook_spec.errors import DataError

MESSAGES: tuple[Message, ...] = (
    {"role": "user", "content": "What does AKI stand for?\u2028"},
    {"role": "assistant", "content": "acute kidney injury"},
)


def test_rows_survive_the_file_unchanged(tmp_path: Path) -> None:
    rows = [Row(content_id("glossary", MESSAGES), MESSAGES, "glossary", "g", "s", 1, {"terms": ["AKI"]})] * 2
    assert write_rows(tmp_path / "rows.jsonl", rows) == 2
    assert read_rows(tmp_path / "rows.jsonl") == rows
    assert rows[0].reference == "acute kidney injury"


def test_the_id_follows_task_and_content() -> None:
    other: tuple[Message, ...] = (MESSAGES[0], {"role": "assistant", "content": "acute kidney injury."})
    ids = {content_id("glossary", MESSAGES), content_id("choice", MESSAGES), content_id("glossary", other)}
    assert len(ids) == 3
    assert content_id("glossary", MESSAGES) in ids
    assert all(len(id_) == 16 for id_ in ids)


@pytest.mark.parametrize("line", ["not json", "[]", '{"id": "x"}', '{"messages": [], "unknown": 1}'])
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"rows\.jsonl:1: not a row"):
        read_rows(path)
