from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tunebook_data.tokens import TokenTable, write_tokens
from tunebook_model.render import Rendered, SoftTargets
from tunebook_spec.errors import DataError


def random_rows(count: int) -> list[tuple[str, Rendered]]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 40, count)
    rows = []
    for i, n in enumerate(lengths):
        mask = rng.random(n) < 0.4
        shape = int(mask.sum()), 3
        soft = SoftTargets(rng.integers(0, 50_000, shape, np.int32), rng.random(shape, np.float32))
        has_soft = i % 2 and mask.any()
        weight = float(rng.integers(1, 9)) / 4
        row = Rendered(rng.integers(0, 50_000, n, np.int32), mask, soft if has_soft else None, weight)
        rows.append((f"row{i}", row))
    return rows


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = random_rows(200)
    write_tokens(tmp_path / "t.arrow", rows)
    table = TokenTable.open(tmp_path / "t.arrow")
    assert len(table) == 200
    assert table.lengths.tolist() == [len(rendered.input_ids) for _, rendered in rows]
    for i, (row_id, rendered) in enumerate(rows):
        assert table.row_id(i) == row_id
        assert table.input_ids(i).tolist() == rendered.input_ids.tolist()
        assert table.loss_mask(i).dtype == np.bool_
        assert table.loss_mask(i).tolist() == rendered.loss_mask.tolist()
        assert table.weight(i) == rendered.weight
        soft, wanted = table.soft_targets(i), rendered.soft_targets
        assert (soft is None) == (wanted is None)
        if soft and wanted:
            np.testing.assert_array_equal(soft.ids_NK, wanted.ids_NK)
            np.testing.assert_array_equal(soft.probabilities_NK, wanted.probabilities_NK)


def test_more_tokens_than_a_table_holds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its offsets have 32 bits, and would wrap."""
    monkeypatch.setattr("tunebook_data.tokens.MAX_TOKENS", 99)
    with pytest.raises(DataError, match=r"have \d+ tokens, and a token table holds 99: cap them"):
        write_tokens(tmp_path / "t.arrow", random_rows(500))


def test_token_ids_are_views_of_the_mapped_file(tmp_path: Path) -> None:
    path = tmp_path / "t.arrow"
    write_tokens(path, random_rows(5000))
    before = pa.total_allocated_bytes()
    table = TokenTable.open(path)
    ids = table.input_ids(17)
    assert pa.total_allocated_bytes() - before < 10_000, "the table was read instead of mapped"
    assert ids.base is not None
    assert not ids.flags.writeable
    address = ids.__array_interface__["data"][0]
    maps = Path(f"/proc/{os.getpid()}/maps").read_text().splitlines()
    spans = [line.split()[0].split("-") for line in maps if line.endswith("t.arrow")]
    assert any(int(start, 16) <= address < int(end, 16) for start, end in spans)


def test_an_empty_table_can_be_read(tmp_path: Path) -> None:
    write_tokens(tmp_path / "t.arrow", [])
    table = TokenTable.open(tmp_path / "t.arrow")
    assert len(table) == 0
    assert table.lengths.tolist() == []
    assert table.all_input_ids.tolist() == []


@pytest.mark.parametrize("content", [b"", b"no arrow at all"], ids=["empty", "text"])
def test_another_kind_of_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.arrow").write_bytes(content)
    with pytest.raises(DataError, match=r"t\.arrow: not a token table.*run prepare again"):
        TokenTable.open(tmp_path / "t.arrow")


def test_a_table_with_other_columns_is_refused(tmp_path: Path) -> None:
    batch = pa.record_batch({"input_ids": [1, 2]})
    with pa.OSFile(str(tmp_path / "t.arrow"), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(DataError, match="not a token table"):
        TokenTable.open(tmp_path / "t.arrow")
