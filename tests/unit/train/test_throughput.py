from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig

from tests.unit.train.tables import CPU, FULL, MakeTable
from tests.unit.train.test_adapter import LORA, QLORA
from tests.unit.train.test_loop import LENGTHS, METHOD, run
from tunebook_spec.method import LoraMethod
from tunebook_train.pack import Pack
from tunebook_train.step import SupervisedLoss, load_model
from tunebook_train.throughput import Meter, StepCost, gemm_rate, peak_memory


def counted(loss: SupervisedLoss, pack: Pack) -> tuple[int, int]:
    """What torch counts of a step: products by weights, and of attention."""
    with FlopCounterMode(display=False) as counter:
        loss(pack).backward()
    counts = {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}
    attention = counts.pop("aten.bmm") + counts.pop("aten.baddbmm")
    assert counts.keys() <= {"aten.mm", "aten.addmm"}
    return sum(counts.values()), attention


def test_a_step_of_all_weights_costs_what_torch_counts_and_half_of_its_attention(
    loss_model: SupervisedLoss, make_table: MakeTable
) -> None:
    table = make_table("train", [64])
    products, attention = counted(loss_model, Pack.of(table, [0], CPU))
    cost = StepCost.of(loss_model)
    # The last token predicts nothing.
    assert cost.per_token * 63 + cost.per_supervised * 32 == products
    assert 2 * cost.per_square * 63**2 == pytest.approx(attention, rel=1e-3)
    assert cost.of_rows(table, [0], 63) == pytest.approx(products + attention / 2, rel=5e-3)


@pytest.mark.parametrize("method", [LORA, QLORA], ids=["lora", "qlora"])
def test_a_frozen_weight_costs_two_thirds_of_a_trained_one_and_its_adapter_comes_on_top(
    tiny_llama: Path, loss_model: SupervisedLoss, method: LoraMethod
) -> None:
    full = StepCost.of(loss_model)
    loss = load_model(tiny_llama, torch.float32, CPU, method)
    adapter, _ = loss.parameter_counts()
    cost = StepCost.of(loss)
    assert cost.per_token == full.per_token * 4 / 6 + 6 * adapter
    assert cost.per_supervised == full.per_supervised * 4 / 6
    assert cost.per_square == full.per_square


def test_nearly_all_parameters_count_six_times_a_token(tiny_llama: Path) -> None:
    config = AutoConfig.from_pretrained(tiny_llama)
    loss = load_model(tiny_llama, torch.float32, CPU, FULL)
    _, total = loss.parameter_counts()
    embeddings = config.vocab_size * config.hidden_size
    norms = (2 * config.num_hidden_layers + 1) * config.hidden_size
    cost = StepCost.of(loss)
    assert cost.per_token == 6 * (total - embeddings - norms)
    assert cost.per_supervised == 6 * embeddings


def test_the_rate_of_plain_products_is_one_that_a_machine_can_have() -> None:
    assert 1e8 < gemm_rate(torch.float32, CPU) < 1e14


def test_peak_memory_is_what_was_held_even_if_it_was_given_back() -> None:
    before = psutil.Process().memory_info().rss
    torch.ones(2**26)
    assert before + 2**28 <= peak_memory(CPU) + 2**22
    assert peak_memory(CPU) < psutil.virtual_memory().total


def test_metrics_of_a_step_tell_its_speed_and_what_is_left(
    loss_model: SupervisedLoss, make_table: MakeTable
) -> None:
    table = make_table("train", LENGTHS)
    meter = Meter(StepCost.of(loss_model), 1e9, CPU, started=time.monotonic() - 60)
    training = run(loss_model, table, METHOD, meter=meter)
    steps = [entry for entry in training.metrics if "loss" in entry]
    for entry in steps:
        per_token = entry["mfu"] * 1e9 / entry["tokens_per_s"]
        # Above the products by weights, below these and all of the head and of attention.
        assert 0.9 < per_token / meter.cost.per_token < 2
        assert 0 < entry["grad_norm"]
        assert 0.05 < entry["peak_memory_gib"] < 100
    seconds = [entry["seconds"] for entry in steps]
    assert seconds == sorted(seconds)
    assert steps[0]["eta_s"] > steps[-2]["eta_s"] > steps[-1]["eta_s"] == 0
