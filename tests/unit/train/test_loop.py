from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
from transformers import get_scheduler

from tests.unit.train.tables import CPU, MakeTable, assert_near, gradients_of
from tunebook_data.tokens import TokenTable
from tunebook_spec.errors import StageError
from tunebook_spec.method import FullMethod, Optim, Schedule, TrainingMethod
from tunebook_train.checkpoint import Training
from tunebook_train.loop import Batches, Worker, accumulate, run_steps, validate
from tunebook_train.optimizer import make_optimizer, make_schedule
from tunebook_train.pack import Pack, plan_steps, supervised_weight
from tunebook_train.step import SupervisedLoss
from tunebook_train.throughput import Meter

LENGTHS = [17, 25, 40, 8, 12, 33, 21, 9, 30, 14]
METHOD = FullMethod(kind="full", epochs=2, learning_rate=1e-2, tokens_per_step=64, weight_decay=0.1)
ALONE = Worker(world_rank=0, world_size=1, device=CPU)


def make_training(model: SupervisedLoss, method: TrainingMethod, num_steps: int) -> Training:
    model = copy.deepcopy(model)
    optimizer = make_optimizer(model, method)
    return Training(model, optimizer, make_schedule(optimizer, method, num_steps), digest="0123")


def run(
    model: SupervisedLoss,
    table: TokenTable,
    method: TrainingMethod,
    *,
    save: tuple[int, Path] | None = None,
    resume: Path | None = None,
    validation: TokenTable | None = None,
    meter: Meter | None = None,
    watch: Callable[[Training], None] = lambda training: None,
) -> Training:
    """Train to the end; `save` leaves a checkpoint at a step, `resume` goes on from one."""
    steps = plan_steps(table.lengths, tokens_per_step=method.tokens_per_step, epochs=method.epochs, seed=0)
    training = make_training(model, method, len(steps))
    if resume is not None:
        training.restore(resume)

    def on_step() -> None:
        if save is not None and training.step == save[0]:
            training.save(save[1])
        watch(training)

    batches = Batches(table, table if validation is None else validation, ALONE, method.max_pack_tokens)
    run_steps(training, steps, batches, method, seed=0, on_step=on_step, meter=meter)
    return training


def weights(training: Training) -> dict[str, torch.Tensor]:
    return dict(training.model.named_parameters())


@pytest.mark.parametrize("is_validated", [True, False])
def test_weights_that_the_last_update_broke_are_not_kept(
    loss_model: SupervisedLoss, make_table: MakeTable, is_validated: bool
) -> None:
    table = make_table("train", LENGTHS)
    validation = table if is_validated else make_table("none", [])
    num_steps = len(plan_steps(table.lengths, tokens_per_step=64, epochs=2, seed=0))
    breaking: list[Training] = []

    def watch(training: Training) -> None:
        if training.step == num_steps - 1:
            breaking.append(training)
            for group in training.optimizer.param_groups:
                group["lr"] = math.inf

    with pytest.raises(
        StageError, match=rf"after step {num_steps} .*no numbers any more; lower method.learn"
    ):
        run(loss_model, table, METHOD, validation=validation, watch=watch)
    assert breaking


def test_any_packing_of_a_step_gives_the_same_gradients(
    loss_model: SupervisedLoss, make_table: MakeTable
) -> None:
    table = make_table("train", LENGTHS)
    found, losses = [], []
    for size, num_packs in ((1024, 1), (64, 4), (8, 10)):
        batches = Batches(table, table, ALONE, size)
        packs = batches.packs(table, range(10))
        assert len(packs) == num_packs
        loss_model.zero_grad()
        losses.append(accumulate(loss_model, packs, 1 / supervised_weight(table, range(10)), batches).sum())
        found.append(gradients_of(loss_model))
    for loss, each in zip(losses, found, strict=True):
        torch.testing.assert_close(loss, losses[0], rtol=1e-6, atol=0)
        assert_near(each, found[0])


def test_a_few_rows_are_learned_by_heart(loss_model: SupervisedLoss, make_table: MakeTable) -> None:
    table = make_table("train", [20, 30])
    method = FullMethod(kind="full", epochs=60, learning_rate=1e-2, tokens_per_step=64)
    training = run(loss_model, table, method)
    assert training.metrics[0]["validation_loss"] > 5
    assert training.metrics[-1]["validation_loss"] < 0.05


@pytest.mark.parametrize("optim", get_args(Optim))
def test_a_resumed_training_ends_in_the_same_bits(
    loss_model: SupervisedLoss, make_table: MakeTable, tmp_path: Path, optim: Optim
) -> None:
    table, method = make_table("train", LENGTHS), METHOD.model_copy(update={"optim": optim})
    undisturbed = run(loss_model, table, method, save=(3, tmp_path))
    resumed = run(loss_model, table, method, resume=tmp_path)
    assert all(torch.equal(weights(resumed)[name], weight) for name, weight in weights(undisturbed).items())
    assert undisturbed.metrics == resumed.metrics


def test_a_checkpoint_of_another_training_is_refused(
    loss_model: SupervisedLoss, make_table: MakeTable, tmp_path: Path
) -> None:
    run(loss_model, make_table("train", LENGTHS), METHOD, save=(1, tmp_path))
    training = make_training(loss_model, METHOD, 8)
    training.digest = "4567"
    with pytest.raises(StageError, match=r"of training 0123, this is 4567"):
        training.restore(tmp_path)


def test_a_loss_that_is_no_number_stops_before_the_update_and_names_the_rows(
    loss_model: SupervisedLoss, make_table: MakeTable
) -> None:
    table = make_table("train", LENGTHS)
    only = set(table.input_ids(2)) - {each for row in range(10) if row != 2 for each in table.input_ids(row)}
    model = loss_model.model
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    with torch.no_grad():
        model.model.embed_tokens.weight[int(only.pop())] = math.nan
    method = METHOD.model_copy(update={"tokens_per_step": 512, "max_pack_tokens": 40})
    steps = plan_steps(table.lengths, tokens_per_step=512, epochs=1, seed=0)
    training = make_training(loss_model, method, len(steps))
    batches = Batches(table, table, ALONE, method.max_pack_tokens)
    before = copy.deepcopy(training.model.state_dict())
    with pytest.raises(StageError, match=r"step 1: loss nan, .* in rows train-2; lower"):
        run_steps(training, steps, batches, method, seed=0, on_step=lambda: None)
    after = training.model.state_dict()
    assert all(torch.equal(after[name].nan_to_num(), tensor.nan_to_num()) for name, tensor in before.items())


def test_metrics_of_a_step_say_what_was_trained(loss_model: SupervisedLoss, make_table: MakeTable) -> None:
    table = make_table("train", LENGTHS)
    training = run(loss_model, table, METHOD)
    steps = [entry for entry in training.metrics if "loss" in entry]
    assert sum(entry["tokens"] for entry in steps) == 2 * sum(LENGTHS)
    assert [entry["step"] for entry in steps] == list(range(1, len(steps) + 1))
    assert steps[0]["learning_rate"] == pytest.approx(METHOD.learning_rate)
    assert steps[-1]["learning_rate"] == pytest.approx(0.1 * METHOD.learning_rate)


def test_validation_loss_is_the_mean_over_supervised_tokens(
    loss_model: SupervisedLoss, make_table: MakeTable
) -> None:
    table = make_table("train", LENGTHS)
    small, large = (
        validate(loss_model, Batches(table, table, ALONE, size))["validation_loss"] for size in (16, 1024)
    )
    assert small == pytest.approx(large, rel=1e-5)
    assert large == pytest.approx(math.log(512), rel=0.1)


def test_only_matrices_decay(loss_model: SupervisedLoss) -> None:
    decayed, rest = make_optimizer(loss_model, METHOD).param_groups
    names = {id(p): name for name, p in loss_model.named_parameters()}
    assert all("proj" in names[id(p)] for p in decayed["params"])
    assert {names[id(p)].split(".")[-2] for p in rest["params"]} == {
        "embed_tokens",
        "input_layernorm",
        "post_attention_layernorm",
        "norm",
    }
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)


def test_moments_in_8_bits_lead_where_those_of_32_do(
    loss_model: SupervisedLoss, make_table: MakeTable
) -> None:
    table, ended = make_table("train", LENGTHS), {}
    for optim in get_args(Optim):
        method = METHOD.model_copy(update={"optim": optim, "epochs": 8})
        training = run(loss_model, table, method)
        ended[optim] = training.metrics[-1]["validation_loss"]
    model, state = training.model.model.model, training.optimizer.state
    embedding, matrix = state[model.embed_tokens.weight], state[model.layers[0].mlp.up_proj.weight]
    assert embedding["state1"].dtype == embedding["state2"].dtype == torch.float32
    assert matrix["state1"].dtype == matrix["state2"].dtype == torch.uint8
    assert matrix["absmax1"].shape == (128 * 64 / 256,)
    assert ended["adamw_8bit"] == pytest.approx(ended["adamw_torch_fused"], rel=0.05)
    assert ended["adamw_8bit"] != ended["adamw_torch_fused"]
    assert ended["adamw_8bit"] < training.metrics[0]["validation_loss"] * 0.8


SCHEDULES = get_args(Schedule)


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 2, 100])
def test_after_a_linear_warm_up_the_rate_is_that_of_transformers(kind: Schedule, num_steps: int) -> None:
    model = torch.nn.Linear(1, 1)
    method = METHOD.model_copy(
        update={"lr_scheduler_type": kind, "warmup_ratio": 0.1, "learning_rate": 1.0, "weight_decay": 0.0}
    )
    ours, theirs = (make_optimizer(model, method) for _ in range(2))
    # Upstream's ends a step after the last, where this one's minimum is at the last.
    span = num_steps - 1 if kind == "cosine_with_min_lr" else num_steps
    warmup = max(1, num_steps // 10)
    special = {"min_lr_rate": 0.1} if kind == "cosine_with_min_lr" else None
    schedules = (
        make_schedule(ours, method, num_steps),
        get_scheduler(kind, theirs, warmup, max(span, warmup), scheduler_specific_kwargs=special),
    )
    rates: list[list[float]] = [[], []]
    for _ in range(num_steps):
        for each, schedule, optimizer in zip(rates, schedules, (ours, theirs), strict=True):
            each.append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
    assert rates[0][:warmup] == pytest.approx([n / warmup for n in range(1, warmup + 1)])
    assert rates[0][warmup:] == pytest.approx(rates[1][warmup:])
    assert rates[0] == sorted(rates[0][:warmup]) + sorted(rates[0][warmup:], reverse=True)
    if kind != "constant_with_warmup" and num_steps == 100:
        assert 0 < rates[0][-1] <= 0.1 + 1e-6


def test_fused_adamw_takes_the_steps_of_the_plain_one(
    loss_model: SupervisedLoss, make_table: MakeTable
) -> None:
    pack = Pack.of(make_table("train", LENGTHS), range(10), CPU)
    trained = []
    for fused in (True, False):
        model = copy.deepcopy(loss_model)
        optimizer = make_optimizer(model, METHOD)
        for group in optimizer.param_groups:
            group["fused"] = fused
        for _ in range(3):
            model(pack).backward()
            optimizer.step()
            optimizer.zero_grad()
        trained.append(list(model.parameters()))
    torch.testing.assert_close(trained[0], trained[1], rtol=1e-5, atol=1e-6)
