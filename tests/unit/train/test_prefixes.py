from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.train.tables import (
    CPU,
    assert_near,
    gradients_of,
    plain_model,
    reference_loss,
    write_pairs,
)
from tunebook_data.tokens import TokenTable, write_tokens
from tunebook_model.render import Rendered
from tunebook_train.attention import SHORT
from tunebook_train.pack import Pack, supervised_weight
from tunebook_train.prefixes import MIN_SHARED, SharedPrefix, shared_prefixes
from tunebook_train.step import SupervisedLoss

SYSTEM, ASKED = range(100, 112), range(60, 90)
ROWS = [
    [*SYSTEM, *ASKED, 1, 2, 3, 4],
    [*SYSTEM, 5, 6, 7, 8],
    [9, *SYSTEM, 5, 6],
    [*SYSTEM, *ASKED, 4, 3, 2, 1],
    [*SYSTEM[:4], 1, 2, 3, 4],
    [*SYSTEM, 6, 5, 4, 3],
]
SHARED = (
    SharedPrefix(row=0, length=12, readers=(1, 5)),
    SharedPrefix(row=0, length=42, readers=(3,)),
)


def prefixes(rows: list[list[int]], limits: list[int] | None = None) -> tuple[SharedPrefix, ...]:
    ids = [np.array(row, dtype=np.int32) for row in rows]
    return shared_prefixes(ids, limits or [len(row) for row in rows])


def test_rows_read_the_longest_beginning_that_another_has() -> None:
    assert prefixes(ROWS) == SHARED


def test_what_is_read_of_a_reader_stands_after_what_it_reads() -> None:
    rows = [ROWS[1], ROWS[0], ROWS[3]]
    assert prefixes(rows) == (SharedPrefix(0, 12, (1,)), SharedPrefix(1, 42, (2,)))


def test_no_row_shares_beyond_its_limit_nor_where_it_is_not_worth_it() -> None:
    assert prefixes(ROWS[:2], [10, 11]) == (SharedPrefix(0, 10, (1,)),)
    assert prefixes(ROWS[:2], [45, MIN_SHARED - 1]) == ()
    assert prefixes([ROWS[0], ROWS[4]]) == ()
    assert prefixes([ROWS[0]]) == ()
    assert prefixes([[1] * 20, [1] * 20], [15, 15]) == (SharedPrefix(0, 15, (1,)),)


@pytest.fixture
def table(tmp_path: Path) -> TokenTable:
    """Rows whose last tokens are supervised, but for the very last."""
    masks = [np.arange(len(row)) >= len(row) - 3 for row in ROWS]
    for mask in masks:
        mask[-1] = False
    rendered = [Rendered(np.array(row), mask) for row, mask in zip(ROWS, masks, strict=True)]
    write_tokens(tmp_path / "t.arrow", ((f"row-{n}", row) for n, row in enumerate(rendered)))
    return TokenTable.open(tmp_path / "t.arrow")


def test_a_pack_holds_what_rows_share_once_and_nothing_after_the_last_prediction(table: TokenTable) -> None:
    pack = Pack.of(table, range(len(ROWS)), CPU)
    ends = [len(row) - 2 for row in ROWS]
    assert pack.lengths == tuple(ends)
    assert pack.shared == SHARED
    own = [row[start:end] for row, start, end in zip(ROWS, (0, 12, 0, 42, 0, 12), ends, strict=True)]
    assert pack.input_ids_T.tolist() == [id for row in own for id in row]
    assert pack.position_ids_T[ends[0] : ends[0] + len(own[1])].tolist() == list(range(12, ends[1]))
    # Each prediction is made by the token before it.
    places, targets = pack.predicts_N.tolist(), pack.targets_NK[:, 0].tolist()
    said = list(zip(pack.input_ids_T[places].tolist(), targets, strict=True))
    assert said == [(row[place - 1], row[place]) for row in ROWS for place in (len(row) - 3, len(row) - 2)]
    assert len(said) == supervised_weight(table, range(len(ROWS)))


@pytest.mark.parametrize("more", [0, SHORT], ids=["plain products", "torch's attention"])
def test_rows_that_share_have_the_loss_and_gradients_that_they_have_alone(
    tiny_llama: Path, loss_model: SupervisedLoss, tmp_path: Path, more: int
) -> None:
    rows = [[*SYSTEM, *([7] * more), *row] for row in ROWS]
    rendered = [Rendered(np.array(row), np.arange(len(row)) >= len(row) - 2) for row in rows]
    write_tokens(tmp_path / "t.arrow", ((f"row-{n}", row) for n, row in enumerate(rendered)))
    table = TokenTable.open(tmp_path / "t.arrow")
    pack = Pack.of(table, [2, 0, 5, 1, 4, 3], CPU)
    assert len(pack.shared) > 1
    assert len(pack.input_ids_T) < 0.7 * table.lengths.sum()
    expected_loss, expected = reference_loss(plain_model(tiny_llama), table)
    loss = loss_model(pack)
    loss.backward()
    torch.testing.assert_close(loss.detach(), expected_loss, rtol=1e-6, atol=0)
    assert_near(gradients_of(loss_model.model), expected)


def test_the_two_answers_of_a_pair_share_their_prompt(tmp_path: Path, loss_model: SupervisedLoss) -> None:
    pairs = write_pairs(tmp_path / "pairs.arrow", [(20, 5, 9), (6, 4, 4), (30, 1, 8)])
    none = torch.zeros(len(pairs))
    pack = Pack.of(pairs, range(len(pairs)), CPU, none)
    # The last token of a prompt predicts, and is each row's own.
    assert pack.shared == (SharedPrefix(0, 19, (1,)), SharedPrefix(4, 29, (5,)))
    alone = [loss_model(Pack.of(pairs, [row], CPU, none)) for row in range(len(pairs))]
    torch.testing.assert_close(loss_model(pack), torch.cat(alone), rtol=1e-5, atol=1e-5)
