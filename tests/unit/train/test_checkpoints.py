from __future__ import annotations

import json

import pytest
import torch

from tests.unit.train.tables import FULL
from tunebook_run.store import Store
from tunebook_spec.errors import StageError
from tunebook_train.checkpoint import CHECKSUMS, POSITION, STATE, Training
from tunebook_train.checkpoints import Checkpoints
from tunebook_train.optimizer import make_optimizer, make_schedule
from tunebook_train.step import SupervisedLoss

KEY = "tiny/stages/train-0123"


@pytest.fixture
def training(loss_model: SupervisedLoss) -> Training:
    optimizer = make_optimizer(loss_model, FULL)
    for p in loss_model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    return Training(loss_model, optimizer, make_schedule(optimizer, FULL, 30), digest="0123")


def damage(store: Store, step: int) -> None:
    store.write(f"{KEY}/checkpoints/checkpoint_{step:06d}/{POSITION}", b"{}")


def test_training_goes_on_from_the_newest_that_is_whole_of_the_two_that_are_kept(
    training: Training, store: Store
) -> None:
    checkpoints = Checkpoints(store, KEY)
    assert list(checkpoints.newest_first()) == []
    for training.step in (5, 10, 15):
        checkpoints.save(training)
    assert [folder.name for folder in checkpoints.newest_first()] == [
        "checkpoint_000015",
        "checkpoint_000010",
    ]
    damage(store, 15)
    training.restore_newest(checkpoints.newest_first())
    assert training.step == 10
    assert [set(entry) for entry in training.metrics] == [{"resumed_at_step", "damaged"}]
    assert "checkpoint_000015 is damaged" in training.metrics[0]["damaged"][0]
    training.step = 15
    checkpoints.save(training)
    training.restore_newest(checkpoints.newest_first())
    assert training.step == 15
    assert "damaged" not in training.metrics[-1]
    damage(store, 15)
    damage(store, 10)
    with pytest.raises(StageError, match=r"000015 is damaged; .*000010 is damaged; no other is left"):
        training.restore_newest(checkpoints.newest_first())


def test_one_that_was_not_written_to_its_end_is_none(training: Training, store: Store) -> None:
    checkpoints = Checkpoints(store, KEY)
    training.step = 5
    checkpoints.save(training)
    folder = f"{KEY}/checkpoints/checkpoint_000010"
    store.write(f"{folder}/{STATE}", b"half")
    store.write(f"{folder}/{POSITION}", json.dumps({"digest": "0123", "step": 10, "metrics": []}).encode())
    store.write(f"{KEY}/checkpoints/.tmp/checkpoint/{CHECKSUMS}", b"{}")
    assert [folder.name for folder in checkpoints.newest_first()] == ["checkpoint_000005"]
    training.step = 10
    checkpoints.save(training)
    training.restore_newest(checkpoints.newest_first())
    assert training.step == 10
