from __future__ import annotations

import copy
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.train.tables import CPU, plain_model, write_pairs
from tests.unit.train.test_adapter import adapted
from tunebook_data.tokens import TokenTable, write_tokens
from tunebook_spec.errors import StageError
from tunebook_spec.method import AnyMethod, DpoObjective, EarlyStopping, FullMethod, LoraMethod
from tunebook_train.checkpoint import Training
from tunebook_train.loop import Batches, Worker, reference_log_probabilities, run_steps
from tunebook_train.optimizer import make_optimizer, make_schedule
from tunebook_train.pack import pack_rows, plan_steps
from tunebook_train.preference import preference_sums
from tunebook_train.step import SupervisedLoss, load_model

ALONE = Worker(world_rank=0, world_size=1, device=CPU)
DPO = DpoObjective(kind="dpo", beta=0.5)
COMMON = {"objective": DPO, "epochs": 3, "tokens_per_step": 300, "max_pack_tokens": 64}
FULL = FullMethod(kind="full", learning_rate=1e-3, **COMMON)
LORA = LoraMethod(kind="lora", r=4, lora_dropout=0.1, learning_rate=1e-2, **COMMON)


@pytest.fixture
def pairs(tmp_path: Path) -> TokenTable:
    return write_pairs(tmp_path / "pairs.tokens.arrow")


def run(
    model: SupervisedLoss,
    table: TokenTable,
    method: AnyMethod,
    *,
    save: tuple[int, Path] | None = None,
    resume: Path | None = None,
    validation: TokenTable | None = None,
) -> Training:
    """Train to the end; `save` leaves a checkpoint at a step, `resume` goes on from one."""
    model = copy.deepcopy(model)
    batches = Batches(table, validation or table, ALONE, method.max_pack_tokens, method.objective)
    steps = plan_steps(
        table.lengths,
        tokens_per_step=method.tokens_per_step,
        epochs=method.epochs,
        seed=0,
        together=batches.together,
    )
    optimizer = make_optimizer(model, method)
    training = Training(model, optimizer, make_schedule(optimizer, method, len(steps)), "0123")
    if resume is not None:
        training.restore(resume)

    def on_step() -> None:
        if save is not None and training.step == save[0]:
            training.save(save[1])

    run_steps(training, steps, batches, method, seed=0, on_step=on_step)
    return training


def test_pairs_share_steps_and_packs(pairs: TokenTable) -> None:
    steps = plan_steps(pairs.lengths, tokens_per_step=300, epochs=2, seed=0, together=2)
    assert len(steps) > 4
    for epoch in range(2):
        seen = [row for step in steps if step.epoch == epoch for row in step.rows]
        assert sorted(seen) == list(range(len(pairs)))
    packs = pack_rows(range(len(pairs)), pairs.lengths, max_pack_tokens=64, together=2)
    assert len(packs) > 3
    for rows in (*packs, *(step.rows for step in steps)):
        assert all(row + 1 == other for row, other in zip(rows[::2], rows[1::2], strict=True))
        assert all(row % 2 == 0 for row in rows[::2])
    sizes = [int(pairs.lengths[pack].sum()) for pack in packs]
    assert all(size <= 64 or len(pack) == 2 for size, pack in zip(sizes, packs, strict=True))


@pytest.mark.parametrize("max_pack_tokens", [8, 4096])
def test_a_row_has_the_log_probability_that_it_has_alone_in_a_plain_model(
    tiny_llama: Path, loss_model: SupervisedLoss, pairs: TokenTable, max_pack_tokens: int
) -> None:
    found = reference_log_probabilities(loss_model, Batches(pairs, pairs, ALONE, max_pack_tokens, DPO), pairs)
    model = plain_model(tiny_llama)
    for row in range(len(pairs)):
        ids = torch.from_numpy(pairs.input_ids(row).astype(np.int64))
        with torch.no_grad():
            log_TV = model(ids[None]).logits[0, :-1].log_softmax(1)
        log_T = log_TV.gather(1, ids[1:, None])[:, 0]
        expected = log_T[torch.from_numpy(pairs.loss_mask(row)[1:])].sum()
        torch.testing.assert_close(found[row], expected, rtol=1e-5, atol=1e-4)


def test_the_sums_are_those_of_the_formulas() -> None:
    log, reference = torch.tensor([-3.0, -5.0, -8.0, -2.0]), torch.tensor([-4.0, -4.0, -7.0, -7.0])
    loss, chosen, rejected, accuracy, margin = preference_sums(log, reference, 0.5).tolist()
    assert (chosen, rejected, accuracy, margin) == (0.0, 2.0, 1.0, -2.0)
    assert loss == pytest.approx(sum(-math.log(1 / (1 + math.exp(-each))) for each in (1.0, -3.0)))


def test_margins_that_no_float_can_exponentiate_are_losses_all_the_same() -> None:
    log = torch.tensor([-1e4, 0.0, 0.0, -1e4], requires_grad=True)
    sums = preference_sums(log, torch.zeros(4), 1.0)
    sums[0].backward()
    assert sums.tolist() == [1e4, -1e4, -1e4, 1, 0]
    assert log.grad is not None
    assert log.grad.tolist() == [-1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("method", [FULL, LORA], ids=["full", "lora"])
def test_training_begins_at_the_untrained_model_and_learns_the_preference(
    tiny_llama: Path, pairs: TokenTable, method: AnyMethod
) -> None:
    torch.manual_seed(0)
    method = method.model_copy(update={"epochs": 20, "tokens_per_step": 2048})
    training = run(load_model(tiny_llama, torch.float32, CPU, method), pairs, method)
    first, last = training.metrics[0], training.metrics[-1]
    assert first["validation_loss"] == pytest.approx(math.log(2), rel=1e-4)
    assert last["validation_loss"] < 0.1
    assert last["validation_rewards/accuracies"] == 1
    assert last["validation_rewards/chosen"] > 0.5 > last["validation_rewards/rejected"]
    steps = [entry for entry in training.metrics if "loss" in entry]
    assert steps[-1]["rewards/margins"] > steps[len(steps) // 2]["rewards/margins"] > 1
    for each in steps:
        margin = each["rewards/chosen"] - each["rewards/rejected"]
        assert each["rewards/margins"] == pytest.approx(margin, abs=1e-4)


@pytest.mark.parametrize("method", [FULL, LORA], ids=["full", "lora"])
def test_a_resumed_training_keeps_its_reference_and_ends_in_the_same_bits(
    tiny_llama: Path, pairs: TokenTable, tmp_path: Path, method: AnyMethod
) -> None:
    torch.manual_seed(0)
    base = load_model(tiny_llama, torch.float32, CPU, method)
    undisturbed = run(base, pairs, method, save=(3, tmp_path))
    resumed = run(base, pairs, method, resume=tmp_path)
    assert resumed.metrics == undisturbed.metrics
    for side, log_probabilities in undisturbed.reference.items():
        assert torch.equal(resumed.reference[side], log_probabilities)
    weights = dict(undisturbed.model.named_parameters())
    assert all(torch.equal(p, weights[name]) for name, p in resumed.model.named_parameters())


def test_the_reference_is_of_the_base_whatever_an_adapter_drops_out(
    tiny_llama: Path, loss_model: SupervisedLoss, pairs: TokenTable
) -> None:
    batches = Batches(pairs, pairs, ALONE, 64, DPO)
    of_base = reference_log_probabilities(loss_model, batches, pairs)
    fresh = reference_log_probabilities(load_model(tiny_llama, torch.float32, CPU, LORA), batches, pairs)
    torch.testing.assert_close(fresh, of_base, rtol=1e-6, atol=1e-5)
    assert (reference_log_probabilities(adapted(tiny_llama, LORA), batches, pairs) - of_base).abs().max() > 1


def test_training_stops_early_by_the_loss_of_validation_pairs(
    loss_model: SupervisedLoss, pairs: TokenTable, tmp_path: Path
) -> None:
    # The same pairs the other way round: what is learnt makes them worse.
    turned = write_turned(pairs, tmp_path / "turned.tokens.arrow")
    stopping = EarlyStopping(eval_steps=1, patience=2)
    method = FULL.model_copy(update={"early_stopping": stopping})
    training = run(loss_model, pairs, method, validation=turned)
    losses = [e["validation_loss"] for e in training.metrics if "validation_loss" in e]
    assert losses[0] == pytest.approx(math.log(2), rel=1e-4)
    assert all(later > before for before, later in pairwise(losses))
    assert len(losses) == 1 + 3
    assert training.metrics[-1] == {"step": 1, "is_best": True}


def write_turned(table: TokenTable, path: Path) -> TokenTable:
    order = [row + (1 if row % 2 == 0 else -1) for row in range(len(table))]
    write_tokens(path, [(table.row_id(row), table.rendered(row)) for row in order])
    return TokenTable.open(path)


def test_a_reward_that_is_no_number_stops_before_the_update_and_names_the_rows(
    loss_model: SupervisedLoss, pairs: TokenTable, tmp_path: Path
) -> None:
    rows = [(pairs.row_id(row), pairs.rendered(row)) for row in range(len(pairs))]
    ids = rows[2][1].input_ids.copy()
    ids[1] = 3
    rows[2] = rows[2][0], replace(rows[2][1], input_ids=ids)
    write_tokens(tmp_path / "odd.tokens.arrow", rows)
    model = loss_model.model
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    with torch.no_grad():
        model.model.embed_tokens.weight[3] = math.nan
    method = FULL.model_copy(update={"tokens_per_step": 4096, "max_pack_tokens": 40})
    with pytest.raises(StageError, match=r"step 1: loss nan, .* in rows pair-1, pair-1-rejected; lower"):
        run(loss_model, TokenTable.open(tmp_path / "odd.tokens.arrow"), method)
