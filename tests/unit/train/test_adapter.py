from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from peft.tuners.lora import Linear
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig

from tests.unit.train.tables import (
    CPU,
    MakeTable,
    assert_near,
    gradients_of,
    plain_model,
    reference_loss,
)
from tests.unit.train.test_loop import ALONE, LENGTHS, run, weights
from tests.unit.train.test_merge import NO_PROBES, nothing
from tests.unit.train.test_step import SMALL
from tunebook_spec.errors import StageError
from tunebook_spec.method import AdapterMethod, LoraMethod, MergeBase, QloraMethod
from tunebook_train.adapter import add_adapter, save_adapter
from tunebook_train.inputs import MergeInputs
from tunebook_train.job import ADAPTER
from tunebook_train.loop import Batches, validate
from tunebook_train.merge import MODEL, MergeResult, merge
from tunebook_train.optimizer import make_optimizer
from tunebook_train.pack import Pack
from tunebook_train.quantise import Quantised
from tunebook_train.step import SupervisedLoss, check_loss, load_model

LORA = LoraMethod(kind="lora", r=4, epochs=2, learning_rate=1e-2, tokens_per_step=64)
KINDS = {
    "lora": LORA,
    "alpha": LORA.model_copy(update={"lora_alpha": 3, "target_modules": ("q_proj", "down_proj")}),
    "rslora": LORA.model_copy(update={"use_rslora": True}),
    "dora": LORA.model_copy(update={"use_dora": True, "target_modules": r".*\.1\..*_proj"}),
}
each_kind = pytest.mark.parametrize("method", KINDS.values(), ids=KINDS)


def adapted(folder: Path, method: AdapterMethod, dtype: torch.dtype = torch.float32) -> SupervisedLoss:
    """A model whose adapter says something: every weight of it is random."""
    torch.manual_seed(0)
    loss = load_model(folder, dtype, CPU, method)
    with torch.no_grad():
        for parameter in loss.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return loss


def saved(loss: SupervisedLoss, folder: Path) -> Path:
    state = loss.state_with(dict(loss.named_parameters()))
    save_adapter(loss.model, state, folder / ADAPTER, base_name="owner/tiny", base_revision="0123")
    NO_PROBES.write(folder)
    return folder / ADAPTER


def stock(base: Path, adapter: Path, **options: Any) -> PeftModel:
    """What PEFT makes of a saved adapter."""
    return PeftModel.from_pretrained(plain_model(base), adapter, **options)


def run_merge(trained: Path, base: Path, out: Path, into: MergeBase | None = None) -> MergeResult:
    out.mkdir()
    return merge(MergeInputs(into=into), trained_dir=trained, base_dir=base, out=out, advance=nothing)


@each_kind
def test_packed_rows_have_the_loss_and_gradients_that_stock_peft_gives_them_alone(
    tiny_llama: Path, make_table: MakeTable, tmp_path: Path, method: LoraMethod
) -> None:
    table = make_table("train", [17, 5, 40, 5, 2, 63])
    ours = adapted(tiny_llama, method)
    peer = stock(tiny_llama, saved(ours, tmp_path), is_trainable=True)
    expected_loss, expected = reference_loss(peer, table)
    loss = ours(Pack.of(table, [2, 0, 5, 1, 4, 3], CPU))
    loss.backward()
    torch.testing.assert_close(loss.detach(), expected_loss, rtol=1e-6, atol=0)
    found = gradients_of(ours.model)
    assert all("lora_" in name for name in found)
    assert_near(found, expected)


def test_plain_updates_are_one_step_of_autograd_and_all_others_are_pefts(
    tiny_llama: Path, make_table: MakeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = Pack.of(make_table("train", LENGTHS), range(10), CPU)
    plain, dropped = (
        load_model(tiny_llama, torch.float32, CPU, LORA.model_copy(update={"lora_dropout": each}))
        for each in (0.0, 0.1)
    )

    def forward(*_: Any, **__: Any) -> None:
        raise NotImplementedError

    monkeypatch.setattr(Linear, "forward", forward)
    plain(pack).backward()
    with pytest.raises(NotImplementedError):
        dropped(pack)


@each_kind
def test_a_new_adapter_leaves_the_loss_of_the_base(
    tiny_llama: Path, loss_model: SupervisedLoss, make_table: MakeTable, method: LoraMethod
) -> None:
    pack = Pack.of(make_table("train", LENGTHS), range(10), CPU)
    torch.testing.assert_close(load_model(tiny_llama, torch.float32, CPU, method)(pack), loss_model(pack))


@pytest.mark.parametrize("whole", [(), ("embed_tokens",)])
def test_a_frozen_base_is_in_the_compute_type_and_its_adapter_in_float32(
    tiny_llama: Path, make_table: MakeTable, whole: tuple[str, ...]
) -> None:
    pack = Pack.of(make_table("train", LENGTHS), range(10), CPU)
    method = LORA.model_copy(update={"modules_to_save": whole})
    mixed, exact = adapted(tiny_llama, method, torch.bfloat16), adapted(tiny_llama, method)
    loss = mixed(pack)
    loss.backward()
    assert {p.dtype for p in mixed.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert {(p.dtype, p.grad.dtype) for p in mixed.parameters() if p.grad is not None} == {
        (torch.float32, torch.float32)
    }
    torch.testing.assert_close(loss.detach(), exact(pack).detach(), rtol=1e-2, atol=0)
    check_loss(mixed, Pack.of(make_table("one", [40]), [0], CPU))


def test_training_moves_the_adapter_alone(tiny_llama: Path, make_table: MakeTable) -> None:
    loss = load_model(tiny_llama, torch.float32, CPU, LORA)
    before = copy.deepcopy(dict(loss.named_parameters()))
    training = run(loss, make_table("train", LENGTHS), LORA)
    moved = {name for name, weight in weights(training).items() if not torch.equal(weight, before[name])}
    assert moved == {name for name in before if "lora_" in name}
    groups = make_optimizer(loss, LORA.model_copy(update={"weight_decay": 0.1})).param_groups
    trained = {id(p) for p in loss.parameters() if p.requires_grad}
    assert {id(p) for group in groups for p in group["params"]} == trained
    trainable, total = loss.parameter_counts()
    assert trainable == sum(4 * sum(p.shape) for n, p in before.items() if "_proj.base_layer" in n)
    assert total == trainable + sum(p.numel() for n, p in before.items() if "lora_" not in n)


def test_a_few_rows_are_learned_by_heart(tmp_path: Path, make_table: MakeTable) -> None:
    AutoModelForCausalLM.from_config(LlamaConfig(**SMALL)).save_pretrained(tmp_path)
    method = LORA.model_copy(update={"epochs": 60, "r": 16, "learning_rate": 2e-2})
    loss = load_model(tmp_path, torch.float32, CPU, method)
    training = run(loss, make_table("train", [20, 30]), method)
    assert training.metrics[0]["validation_loss"] > 5
    assert training.metrics[-1]["validation_loss"] < 0.1


def test_a_resumed_training_with_dropout_ends_in_the_same_bits(
    tiny_llama: Path, make_table: MakeTable, tmp_path: Path
) -> None:
    method = LORA.model_copy(update={"lora_dropout": 0.3})
    table, loss = make_table("train", LENGTHS), adapted(tiny_llama, method)
    undisturbed = run(loss, table, method, save=(3, tmp_path))
    torch.rand(7)
    resumed = run(loss, table, method, resume=tmp_path)
    assert all(torch.equal(weights(resumed)[name], weight) for name, weight in weights(undisturbed).items())
    assert all("lora_" in name for name in torch.load(tmp_path / "state.pt")["model"])
    without = run(adapted(tiny_llama, LORA), table, LORA)
    assert undisturbed.metrics[1]["loss"] != without.metrics[1]["loss"]


def test_validation_drops_nothing_out_and_training_does_again(
    tiny_llama: Path, make_table: MakeTable
) -> None:
    table = make_table("train", LENGTHS)
    batches = Batches(table, table, ALONE, 1024)
    dropping = adapted(tiny_llama, LORA.model_copy(update={"lora_dropout": 0.3}))
    assert validate(dropping, batches) == validate(adapted(tiny_llama, LORA), batches)
    pack = Pack.of(table, range(10), CPU)
    assert dropping(pack) != dropping(pack)


def test_a_saved_adapter_names_its_base_and_no_place_of_this_machine(
    tiny_llama: Path, tmp_path: Path
) -> None:
    folder = saved(load_model(tiny_llama, torch.float32, CPU, LORA), tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    text = (folder / "adapter_config.json").read_text()
    config = json.loads(text)
    assert (config["base_model_name_or_path"], config["revision"]) == ("owner/tiny", "0123")
    assert (config["r"], config["lora_alpha"], config["bias"]) == (4, 8, "none")
    assert config["target_modules"] == sorted(config["target_modules"])
    assert str(tiny_llama.parent) not in text


@each_kind
@pytest.mark.parametrize("shards", ["1GB", "100KB"])
def test_a_merged_model_is_what_stock_peft_computes_and_merges(
    tiny_llama: Path, tmp_path: Path, method: LoraMethod, shards: str
) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    shutil.copytree(tiny_llama, base, ignore=shutil.ignore_patterns("*.safetensors"))
    plain_model(tiny_llama).save_pretrained(base, max_shard_size=shards)
    adapter = saved(adapted(base, method), tmp_path)
    result = run_merge(tmp_path, base, out)
    merged = plain_model(out / MODEL)
    assert result.parameters == merged.num_parameters()
    ids = torch.randint(5, 250, (2, 30), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, expected = merged(ids).logits, stock(base, adapter)(ids).logits
        plain = plain_model(base)(ids).logits
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert (logits - plain).abs().max() > 0.1
    theirs = stock(base, adapter).merge_and_unload().state_dict()
    assert merged.state_dict().keys() == theirs.keys()
    torch.testing.assert_close(merged.state_dict(), theirs, rtol=0, atol=1e-6)


def test_a_merge_is_rounded_once_into_the_type_of_the_base(tiny_llama: Path, tmp_path: Path) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    shutil.copytree(tiny_llama, base, ignore=shutil.ignore_patterns("*.safetensors"))
    AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.bfloat16).save_pretrained(base)
    adapter = saved(adapted(base, LORA), tmp_path)
    run_merge(tmp_path, base, out)
    merged = load_file(out / MODEL / "model.safetensors")
    exact = stock(base, adapter).merge_and_unload().state_dict()
    assert all(torch.equal(tensor, exact[name].bfloat16()) for name, tensor in merged.items())


def test_an_adapter_that_could_not_be_merged_is_refused_before_training(
    tiny_llama: Path, tmp_path: Path
) -> None:
    config = LlamaConfig.from_pretrained(tiny_llama, num_hidden_layers=3)
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(StageError, match=r"hold no model\.layers\.2\..*\.weight: this architecture stores"):
        add_adapter(model, LORA, tiny_llama)


def base_of(tiny_llama: Path, folder: Path, *, tied: bool) -> Path:
    """A copy with head and embeddings tied or each its own."""
    shutil.copytree(tiny_llama, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, tie_word_embeddings=tied)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("tied", "whole"),
    [(True, "embed_tokens"), (True, "lm_head"), (False, "lm_head"), (False, "embed_tokens")],
)
@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_modules_to_save_are_trained_whole_tied_if_they_were_and_merged(
    tiny_llama: Path, make_table: MakeTable, tmp_path: Path, tied: bool, whole: str, kind: str
) -> None:
    base = base_of(tiny_llama, tmp_path / "base", tied=tied)
    changes = {"modules_to_save": (whole, "input_layernorm")}
    method = (LORA if kind == "lora" else QLORA).model_copy(update=changes)
    torch.manual_seed(0)
    loss = load_model(base, torch.bfloat16, CPU, method)
    table = make_table("train", LENGTHS)
    loss(Pack.of(table, range(10), CPU)).backward()
    grads = {p.grad.dtype for p in loss.parameters() if p.requires_grad and p.grad is not None}
    assert grads == {p.dtype for p in loss.parameters() if p.requires_grad} == {torch.float32}
    loss = load_model(base, torch.float32, CPU, method)
    training = run(loss, table, method)
    tuned = training.model.model
    head, embeddings = (get().weight for get in (tuned.get_output_embeddings, tuned.get_input_embeddings))
    before = plain_model(base)
    assert (head is embeddings) == tied
    moved = [
        not torch.equal(now, then)
        for now, then in (
            (head, before.lm_head.weight),
            (embeddings, before.model.embed_tokens.weight),
            (
                tuned.get_decoder().layers[0].input_layernorm.weight,
                before.model.layers[0].input_layernorm.weight,
            ),
        )
    ]
    assert moved == [tied or whole == "lm_head", tied or whole == "embed_tokens", True]
    adapter = saved(training.model, tmp_path)
    into = None
    if kind == "qlora":
        Quantised.of(tuned.get_base_model(), torch.float32).write(tmp_path)
        base, into = dequantised_base(training.model, base, tmp_path / "dequantised"), "dequantised"
    run_merge(tmp_path, tmp_path / "base", tmp_path / "out", into)
    ids = torch.randint(5, 250, (2, 30), generator=torch.Generator().manual_seed(0))
    merged = plain_model(tmp_path / "out" / MODEL)
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, stock(base, adapter)(ids).logits, rtol=1e-4, atol=1e-4)
    one = make_table("one", [40])
    expected, _ = reference_loss(merged, one)
    torch.testing.assert_close(training.model(Pack.of(one, [0], CPU)).detach(), expected, rtol=1e-4, atol=0)


# The tiny Llama's layers are 64 wide at least, which is the size of a block of NF4.
QLORA = QloraMethod(kind="qlora", r=4, epochs=2, learning_rate=1e-2, tokens_per_step=64)


def dequantised_base(loss: SupervisedLoss, base: Path, folder: Path) -> Path:
    """A copy of a base with the weights that a quantised model computes with."""
    model = plain_model(base)
    for name, module in loss.model.get_base_model().named_modules():
        if isinstance(module, Linear4bit):
            plain = model.get_submodule(name.removesuffix(".base_layer"))
            plain.weight.data = dequantize_4bit(module.weight.data, module.weight.quant_state)
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dora", [False, True])
def test_gradients_of_qlora_are_those_of_lora_on_the_dequantised_base(
    tiny_llama: Path, make_table: MakeTable, tmp_path: Path, dora: bool
) -> None:
    table = make_table("train", [17, 5, 40, 5, 2, 63])
    ours = adapted(tiny_llama, QLORA.model_copy(update={"use_dora": dora}))
    base = dequantised_base(ours, tiny_llama, tmp_path / "dequantised")
    plain = stock(base, saved(ours, tmp_path), is_trainable=True)
    expected, gradients = reference_loss(plain, table)
    loss = ours(Pack.of(table, [2, 0, 5, 1, 4, 3], CPU))
    loss.backward()
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-5, atol=0)
    found = {name: p.grad for name, p in ours.model.named_parameters() if p.grad is not None}
    assert found.keys() == gradients.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, gradients[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_look_at_the_loss_leaves_a_quantised_model_trainable(
    tiny_llama: Path, make_table: MakeTable, dtype: torch.dtype
) -> None:
    table = make_table("train", LENGTHS)
    batches, pack = Batches(table, table, ALONE, 1024), Pack.of(table, range(10), CPU)
    untouched, looked_at = adapted(tiny_llama, QLORA, dtype), adapted(tiny_llama, QLORA, dtype)
    validate(looked_at, batches)
    check_loss(looked_at, Pack.of(table, [2], CPU))
    gradients = []
    for model in (untouched, looked_at):
        model(Pack.empty(CPU)).backward()
        model(pack).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert all(gradient is not None and gradient.any() for gradient in gradients[0].values())
    assert all(torch.equal(gradients[1][name], gradient) for name, gradient in gradients[0].items())


def test_a_quantised_base_is_four_bits_wide_and_counted_as_what_it_was(tiny_llama: Path) -> None:
    quantised, whole = (load_model(tiny_llama, torch.bfloat16, CPU, each) for each in (QLORA, LORA))
    assert quantised.parameter_counts() == whole.parameter_counts()
    packed = {n for n, p in quantised.model.named_parameters() if p.dtype == torch.uint8}
    assert len(packed) == 2 * 7
    assert {p.dtype for p in quantised.parameters() if p.requires_grad} == {torch.float32}
    head = quantised.model.get_output_embeddings().weight
    assert head.dtype == torch.bfloat16


def test_a_resumed_qlora_ends_in_the_same_bits(
    tiny_llama: Path, make_table: MakeTable, tmp_path: Path
) -> None:
    table, loss = make_table("train", LENGTHS), load_model(tiny_llama, torch.float32, CPU, QLORA)
    undisturbed = run(loss, table, QLORA, save=(3, tmp_path))
    resumed = run(loss, table, QLORA, resume=tmp_path)
    assert all(torch.equal(weights(resumed)[name], weight) for name, weight in weights(undisturbed).items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_qlora_is_merged_into_the_base_that_it_was_trained_against(
    tiny_llama: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    loss = adapted(tiny_llama, QLORA, dtype)
    adapter = saved(loss, tmp_path)
    Quantised.of(loss.model.get_base_model(), dtype).write(tmp_path)
    result = run_merge(tmp_path, tiny_llama, tmp_path / "out", "dequantised")
    base = dequantised_base(loss, tiny_llama, tmp_path / "dequantised")
    theirs = stock(base, adapter).merge_and_unload().state_dict()
    torch.testing.assert_close(plain_model(tmp_path / "out" / MODEL).state_dict(), theirs, rtol=0, atol=1e-6)
    before, after = plain_model(tiny_llama).state_dict(), plain_model(base).state_dict()
    names = [name for name in before if "_proj" in name]
    difference = sum((after[name] - before[name]).square().sum() for name in names)
    expected = (difference / sum(before[name].square().sum() for name in names)).sqrt().item()
    assert result.quantisation_error == pytest.approx(expected, rel=1e-4)
    assert 0.05 < expected < 0.15
    assert f"merged into the dequantised base (the two differ by {expected:.2%})" in result.summary()


def test_qlora_can_be_merged_into_the_base_as_it_was(tiny_llama: Path, tmp_path: Path) -> None:
    loss = adapted(tiny_llama, QLORA)
    adapter = saved(loss, tmp_path)
    Quantised.of(loss.model.get_base_model(), torch.float32).write(tmp_path)
    result = run_merge(tmp_path, tiny_llama, tmp_path / "out", "base")
    theirs = stock(tiny_llama, adapter).merge_and_unload().state_dict()
    torch.testing.assert_close(plain_model(tmp_path / "out" / MODEL).state_dict(), theirs, rtol=0, atol=1e-6)
    assert "merged into the base (the two differ by" in result.summary()
