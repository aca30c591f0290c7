from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.unit.train.tables import CPU, MakeTable
from tunebook_data.tokens import TokenTable, write_tokens
from tunebook_model.render import Rendered, SoftTargets
from tunebook_train.pack import Pack, pack_rows, plan_steps, supervised_weight

LENGTHS = np.random.default_rng(0).integers(20, 200, 333).astype(np.int32)


def test_every_epoch_sees_each_row_once_in_another_order() -> None:
    steps = plan_steps(LENGTHS, tokens_per_step=1024, epochs=3, seed=0)
    by_epoch = [[row for step in steps if step.epoch == epoch for row in step.rows] for epoch in range(3)]
    assert [sorted(rows) for rows in by_epoch] == [list(range(333))] * 3
    assert by_epoch[0] != by_epoch[1]
    assert by_epoch[1] != by_epoch[2]


def test_steps_are_decided_by_the_seed() -> None:
    first, again, other = (
        plan_steps(LENGTHS, tokens_per_step=1024, epochs=2, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_no_step_exceeds_its_tokens_and_none_is_a_remnant() -> None:
    steps = plan_steps(LENGTHS, tokens_per_step=4096, epochs=2, seed=0)
    tokens = [int(LENGTHS[list(step.rows)].sum()) for step in steps]
    assert max(tokens) <= 4096
    assert min(tokens) > 0.8 * max(tokens)


@pytest.mark.parametrize(("together", "sizes"), [(1, {10, 11}), (2, {20, 22})])
def test_rows_per_step_count_rows_or_pairs_whatever_their_tokens(together: int, sizes: set[int]) -> None:
    steps = plan_steps(
        LENGTHS[:330], tokens_per_step=64, epochs=2, seed=0, together=together, rows_per_step=11
    )
    assert {len(step.rows) for step in steps} <= sizes
    assert len(steps) == 2 * 330 // together // 11


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_packs_hold_each_row_once_are_full_enough_and_as_many_for_each_worker(num_workers: int) -> None:
    rows = range(50)
    packs = pack_rows(rows, LENGTHS, max_pack_tokens=512, num_workers=num_workers)
    tokens = [int(LENGTHS[pack].sum()) for pack in packs]
    assert Counter(row for pack in packs for row in pack) == Counter(rows)
    assert max(tokens) <= 512
    assert len(packs) % num_workers == 0
    assert len(packs) <= sum(tokens) / 512 * 1.5 + num_workers


def test_rows_of_like_length_share_a_pack() -> None:
    packs = pack_rows(range(333), LENGTHS, max_pack_tokens=1024)
    padded = sum(len(pack) * int(LENGTHS[pack].max()) for pack in packs)
    assert padded < 1.05 * LENGTHS.sum()


def test_a_row_longer_than_a_pack_stands_alone() -> None:
    lengths = np.array([30, 700, 40, 513], dtype=np.int32)
    packs = pack_rows(range(4), lengths, max_pack_tokens=512)
    assert sorted(packs) == [[1], [2, 0], [3]]


def test_fewer_rows_than_workers_leave_workers_without_a_pack() -> None:
    assert pack_rows([4], LENGTHS, max_pack_tokens=512, num_workers=3) == [[4]]


def test_a_pack_predicts_each_supervised_token_from_the_place_before_it(make_table: MakeTable) -> None:
    table = make_table("train", [6, 4])
    pack = Pack.of(table, [1, 0], CPU)
    assert pack.row_ids == ("train-1", "train-0")
    assert pack.position_ids_T.tolist() == [0, 1, 2, 0, 1, 2, 3, 4]
    assert pack.predicts_N.tolist() == [1, 2, 5, 6, 7]
    assert pack.probabilities_NK.tolist() == [[1]] * 5
    assert pack.targets_NK[:, 0].tolist() == table.input_ids(1)[2:].tolist() + table.input_ids(0)[3:].tolist()
    assert supervised_weight(table, [0, 1]) == 5


def test_soft_targets_stand_at_the_places_of_their_row(make_table: MakeTable) -> None:
    table = make_table("train", [6, 4, 8])
    pack = Pack.of(table, [1, 2, 0], CPU)
    soft = table.soft_targets(2)
    assert soft is not None
    assert pack.predicts_N.tolist() == [1, 2, 6, 7, 8, 9, 12, 13, 14]
    assert pack.targets_NK[2:6].tolist() == soft.ids_NK.tolist()
    assert pack.probabilities_NK[2:6].tolist() == (2.5 * soft.probabilities_NK).tolist()
    assert pack.targets_NK[[0, 1], 0].tolist() == table.input_ids(1)[2:].tolist()
    assert pack.probabilities_NK.sum(1).tolist() == pytest.approx([1.0] * 2 + [2.5] * 4 + [1.0] * 3)
    assert supervised_weight(table, [1, 2, 0]) == 2 + 2.5 * 4 + 3


def test_a_soft_target_of_a_row_s_first_token_falls_away(tmp_path: Path) -> None:
    soft = SoftTargets(np.array([[7], [8]], np.int32), np.ones((2, 1), np.float32))
    write_tokens(tmp_path / "t.arrow", [("a", Rendered(np.array([5, 6]), np.ones(2, np.bool_), soft))])
    pack = Pack.of(TokenTable.open(tmp_path / "t.arrow"), [0], CPU)
    assert (pack.predicts_N.tolist(), pack.targets_NK.tolist()) == ([0], [[8]])
