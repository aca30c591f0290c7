from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen3Config,
)

from tests.unit.train.tables import (
    CPU,
    FULL,
    MakeTable,
    assert_near,
    gradients_of,
    plain_model,
    reference_loss,
)
from tunebook_spec.errors import StageError
from tunebook_train.attention import SHORT
from tunebook_train.head_loss import CHUNK, summed_cross_entropy, target_log_probabilities
from tunebook_train.pack import Pack
from tunebook_train.step import SupervisedLoss, check_loss, load_model

LENGTHS = [17, 5, 40, 5, 2, 63]


@pytest.mark.parametrize("longest", [63, SHORT, SHORT + 1])
def test_packed_rows_have_the_loss_and_gradients_that_they_have_alone(
    tiny_llama: Path, loss_model: SupervisedLoss, make_table: MakeTable, longest: int
) -> None:
    table = make_table("train", [*LENGTHS[:-1], longest])
    expected_loss, expected = reference_loss(plain_model(tiny_llama), table)
    loss = loss_model(Pack.of(table, [2, 0, 5, 1, 4, 3], CPU))
    loss.backward()
    torch.testing.assert_close(loss.detach(), expected_loss, rtol=1e-6, atol=0)
    assert_near(gradients_of(loss_model.model), expected)


def test_no_row_sees_another(loss_model: SupervisedLoss, make_table: MakeTable) -> None:
    table, other = make_table("train", [12, 9]), make_table("other", [12, 9, 9])
    with torch.no_grad():
        alone = loss_model(Pack.of(table, [1], CPU))
        total = loss_model(Pack.of(table, [0, 1], CPU)) - loss_model(Pack.of(table, [0], CPU))
        loss_model(Pack.of(other, [0], CPU))
    torch.testing.assert_close(total, alone, rtol=1e-5, atol=0)


def test_an_empty_pack_gives_every_parameter_a_gradient_of_zero(loss_model: SupervisedLoss) -> None:
    loss = loss_model(Pack.empty(CPU))
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in loss_model.parameters())


@pytest.mark.parametrize("count", [1, CHUNK, 2 * CHUNK + 7])
def test_chunked_head_loss_is_plain_cross_entropy(count: int) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(count, 16, requires_grad=True), torch.randn(300, 16, requires_grad=True)
    targets = torch.stack([torch.randperm(300)[:3] for _ in range(count)])
    probabilities = torch.randn(count, 3).softmax(1) * (0.5 + torch.rand(count, 1))
    wanted_NV = torch.zeros(count, 300).scatter(1, targets, probabilities)
    expected = F.cross_entropy(hidden @ weight.t(), wanted_NV, reduction="sum")
    wanted = torch.autograd.grad(expected * 0.25, (hidden, weight))
    loss = summed_cross_entropy(hidden, weight, targets, probabilities, torch.float32)
    got = torch.autograd.grad(loss * 0.25, (hidden, weight))
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [0, 1, CHUNK, 2 * CHUNK + 7])
def test_chunked_log_probabilities_are_plain_ones(count: int) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(count, 16, requires_grad=True), torch.randn(300, 16, requires_grad=True)
    targets, counts = torch.randint(0, 300, (count,)), torch.randn(count)
    expected = (hidden @ weight.t()).log_softmax(1).gather(1, targets[:, None])[:, 0]
    wanted = torch.autograd.grad((expected * counts).sum(), (hidden, weight))
    log_N = target_log_probabilities(hidden, weight, targets, torch.float32)
    got = torch.autograd.grad((log_N * counts).sum(), (hidden, weight))
    torch.testing.assert_close(log_N, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_head_loss_in_bfloat16_is_summed_and_its_gradients_gathered_in_float32() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(2000, 16), torch.randn(300, 16, requires_grad=True)
    targets = torch.randint(0, 300, (2000, 1)), torch.ones(2000, 1)
    exact = summed_cross_entropy(
        hidden.bfloat16().float(), weight.detach().bfloat16().float(), *targets, torch.float32
    )
    loss = summed_cross_entropy(hidden, weight, *targets, torch.bfloat16)
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.detach(), exact, rtol=1e-3, atol=0)
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32


def test_a_bfloat16_step_keeps_float32_weights_and_comes_near_the_float32_loss(
    tiny_llama: Path, loss_model: SupervisedLoss, make_table: MakeTable
) -> None:
    pack = Pack.of(make_table("train", LENGTHS), range(6), CPU)
    mixed = load_model(tiny_llama, torch.bfloat16, CPU, FULL)
    loss = mixed(pack)
    loss.backward()
    assert {p.dtype for p in mixed.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in mixed.parameters() if p.grad is not None} == {torch.float32}
    torch.testing.assert_close(loss.detach(), loss_model(pack).detach(), rtol=1e-2, atol=0)


def test_tied_embeddings_are_one_parameter_and_stay_tied_when_saved(
    loss_model: SupervisedLoss, make_table: MakeTable, tmp_path: Path
) -> None:
    model = loss_model.model
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(1.0)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    model.save_pretrained(tmp_path / "saved")
    again = load_model(tmp_path / "saved", torch.float32, CPU, FULL).model
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)


def test_tied_embeddings_have_one_gradient_that_leaves_the_embedding_of_padding_alone(
    tiny_llama: Path, loss_model: SupervisedLoss, make_table: MakeTable
) -> None:
    plain, padding = plain_model(tiny_llama), loss_model.model.get_input_embeddings().padding_idx
    pack = Pack.of(make_table("train", [40, 6]), [0, 1], CPU)
    pack.input_ids_T[3] = pack.input_ids_T[9] = padding
    logits_TV = torch.cat([plain(row[None]).logits[0] for row in pack.input_ids_T.split(pack.lengths)])
    log_NV = logits_TV[pack.predicts_N].log_softmax(1)
    (-(log_NV.gather(1, pack.targets_NK) * pack.probabilities_NK).sum()).backward()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        loss_model(pack).backward()
    assert_near(gradients_of(loss_model.model), gradients_of(plain))
    assert "aten::embedding_dense_backward" not in {event.name for event in profiled.events()}


def random_model(folder: Path, config: PreTrainedConfig) -> SupervisedLoss:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return load_model(folder, torch.float32, CPU, FULL)


SMALL = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.5,
}


@pytest.mark.parametrize("config", [LlamaConfig(**SMALL), Qwen3Config(**SMALL)], ids=["llama", "qwen3"])
def test_a_loss_that_is_the_models_own_is_let_through(
    tmp_path: Path, make_table: MakeTable, config: PreTrainedConfig
) -> None:
    check_loss(random_model(tmp_path, config), Pack.of(make_table("train", [4, 9, 40]), [2], CPU))


@pytest.mark.parametrize(
    "config",
    [
        Gemma2Config(**SMALL, final_logit_softcapping=2.0, sliding_window=4096),
        MistralConfig(**SMALL, sliding_window=4),
        GraniteConfig(**SMALL, logits_scaling=4.0),
    ],
    ids=["capped logits", "sliding window", "scaled logits"],
)
def test_a_model_that_training_would_get_wrong_is_refused(
    tmp_path: Path, make_table: MakeTable, config: PreTrainedConfig
) -> None:
    loss = random_model(tmp_path, config)
    with pytest.raises(
        StageError, match=rf"{config.model_type}: the model's own loss of row train-2 is .*choose"
    ):
        check_loss(loss, Pack.of(make_table("train", [4, 9, 40]), [2], CPU))
