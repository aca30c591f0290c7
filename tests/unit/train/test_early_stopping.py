from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import EarlyStoppingCallback, TrainerControl, TrainerState, TrainingArguments

from tests.unit.train.tables import MakeTable
from tests.unit.train.test_loop import LENGTHS, METHOD, run, weights
from tunebook_data.tokens import TokenTable
from tunebook_spec.errors import StageError
from tunebook_spec.method import EarlyStopping
from tunebook_train.checkpoint import Training
from tunebook_train.early_stopping import best_step, is_stale
from tunebook_train.step import SupervisedLoss

STOPPING = METHOD.model_copy(
    update={"epochs": 12, "early_stopping": EarlyStopping(eval_steps=2, patience=2, threshold=0.0)}
)
TO_THE_END = STOPPING.model_copy(update={"early_stopping": None})


@pytest.fixture
def tables(make_table: MakeTable) -> tuple[TokenTable, TokenTable]:
    """Rows to train on and rows to validate with, which have nothing in common: soon the loss rises."""
    return make_table("train", LENGTHS), make_table("validation", [30, 30, 30])


def validations(losses: list[float]) -> list[dict[str, Any]]:
    return [{"step": 2 * number, "validation_loss": loss} for number, loss in enumerate([9.0, *losses])]


def upstream_stops_after(losses: list[float], stopping: EarlyStopping, folder: Path) -> int | None:
    arguments = TrainingArguments(
        str(folder), load_best_model_at_end=True, eval_strategy="steps", metric_for_best_model="loss"
    )
    state, control = TrainerState(), TrainerControl()
    callback = EarlyStoppingCallback(stopping.patience, stopping.threshold)
    for number, loss in enumerate(losses, start=1):
        callback.on_evaluate(arguments, state, control, {"eval_loss": loss})
        if control.should_training_stop:
            return number
        state.best_metric = min(loss, state.best_metric or loss)
    return None


@pytest.mark.parametrize("threshold", [0.0, 0.3])
@pytest.mark.parametrize("patience", [1, 3])
def test_training_stops_where_transformers_would(tmp_path: Path, patience: int, threshold: float) -> None:
    stopping = EarlyStopping(patience=patience, threshold=threshold)
    draw, stopped = random.Random(0), set()
    for _ in range(50):
        losses = [draw.choice([1.0, 1.1, 1.2, 1.5, 2.0, 3.0]) - 0.05 * number for number in range(8)]
        ours = next((n for n in range(1, 9) if is_stale(validations(losses[:n]), stopping)), None)
        assert ours == upstream_stops_after(losses, stopping, tmp_path)
        stopped.add(ours)
    assert len(stopped) >= 3


def test_the_best_step_is_the_first_of_the_lowest_loss_since_training_began() -> None:
    assert best_step(validations([])) is None
    assert best_step([{"step": 0, "validation_loss": 0.1}, *validations([3, 2, 2, 4])[1:]]) == 4


def test_it_ends_early_with_the_weights_of_the_lowest_validation_loss(
    loss_model: SupervisedLoss, tables: tuple[TokenTable, TokenTable]
) -> None:
    seen: dict[int, dict[str, torch.Tensor]] = {}

    def keep(training: Training) -> None:
        seen[training.step] = {name: p.detach().clone() for name, p in weights(training).items()}

    whole = run(loss_model, tables[0], TO_THE_END, validation=tables[1], watch=keep)
    stopped = run(loss_model, tables[0], STOPPING, validation=tables[1])
    best = stopped.metrics[-1]["step"]
    assert stopped.metrics[-1] == {"step": best, "is_best": True}
    assert best + 4 == stopped.step < whole.step
    assert all(torch.equal(weights(stopped)[name], weight) for name, weight in seen[best].items())
    assert not torch.equal(
        seen[best]["model.model.embed_tokens.weight"], seen[stopped.step]["model.model.embed_tokens.weight"]
    )
    losses = [entry["loss"] for entry in stopped.metrics if "loss" in entry]
    assert losses == [entry["loss"] for entry in whole.metrics if "loss" in entry][: stopped.step]


@pytest.mark.parametrize("after_best", [0, 1, 3, 4])
def test_a_resumed_training_remembers_its_best_and_its_patience(
    loss_model: SupervisedLoss, tables: tuple[TokenTable, TokenTable], tmp_path: Path, after_best: int
) -> None:
    best = run(loss_model, tables[0], STOPPING, validation=tables[1]).metrics[-1]["step"]
    save = (best + after_best, tmp_path)
    undisturbed = run(loss_model, tables[0], STOPPING, validation=tables[1], save=save)
    resumed = run(loss_model, tables[0], STOPPING, validation=tables[1], resume=tmp_path)
    assert (resumed.step, resumed.metrics[-1]) == (undisturbed.step, undisturbed.metrics[-1])
    assert all(torch.equal(weights(resumed)[name], weight) for name, weight in weights(undisturbed).items())


def test_without_validation_rows_it_is_refused(
    loss_model: SupervisedLoss, tables: tuple[TokenTable, TokenTable], make_table: MakeTable
) -> None:
    with pytest.raises(StageError, match=r"there are no validation rows; raise split\.validation"):
        run(loss_model, tables[0], STOPPING, validation=make_table("none", []))
