from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.unit.train.tables import CPU, FULL, MakeTable, plain_model
from tests.unit.train.test_adapter import LORA, QLORA, run_merge, saved
from tests.unit.train.test_loop import LENGTHS, run
from tunebook_inference.generator import TokenLogprobs
from tunebook_spec.errors import IntegrityError
from tunebook_spec.method import AnyMethod, MergeBase
from tunebook_train import step
from tunebook_train.job import WEIGHTS
from tunebook_train.merge import MODEL
from tunebook_train.merge_probes import MERGE_PROBES, MergeProbe, MergeProbes, Served, check_merge, probe
from tunebook_train.quantise import Quantised
from tunebook_train.step import SupervisedLoss, load_model

METHODS: dict[str, AnyMethod] = {
    "full": FULL.model_copy(update={"epochs": 2, "learning_rate": 1e-2, "tokens_per_step": 64}),
    "lora": LORA,
    "qlora": QLORA,
}
each_method = pytest.mark.parametrize("kind", METHODS)
each_type = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])


def trained(kind: str, base: Path, make_table: MakeTable, folder: Path, dtype: str = "float32") -> None:
    """What stage train leaves of a training, which is all that merge reads."""
    torch.manual_seed(0)
    table = make_table("train", LENGTHS)
    loss = load_model(base, getattr(torch, dtype), CPU, METHODS[kind])
    model = run(loss, table, METHODS[kind]).model
    assert isinstance(model, SupervisedLoss)
    if kind == "full":
        model.model.save_pretrained(folder / WEIGHTS)
    else:
        saved(model, folder)
    if kind == "qlora":
        Quantised.of(model.model.get_base_model(), model.compute_dtype).write(folder)
    probe(model, table, CPU).write(folder)
    assert model.training


def serve(folder: Path, dtype: str = "float32") -> Served:
    """Stock transformers, in the place of an engine."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))

    def served(prompts: Sequence[Sequence[int]]) -> list[TokenLogprobs]:
        with torch.no_grad():
            best = [
                model(torch.tensor([ids])).logits[0, -1].float().log_softmax(0).topk(20) for ids in prompts
            ]
        return [tuple(zip(each.indices.tolist(), each.values.tolist(), strict=True)) for each in best]

    return served


def merge(tmp_path: Path, base: Path, kind: str, into: MergeBase = "dequantised") -> Path:
    run_merge(tmp_path, base, tmp_path / "out", into if kind == "qlora" else None)
    return tmp_path / "out"


def base_in(dtype: str, tiny_llama: Path, folder: Path) -> Path:
    shutil.copytree(tiny_llama, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=getattr(torch, dtype)).save_pretrained(folder)
    return folder


@each_method
@each_type
def test_a_proper_merge_says_what_training_said_and_one_that_forgot_it_does_not(
    kind: str, dtype: str, tiny_llama: Path, make_table: MakeTable, tmp_path: Path
) -> None:
    base = base_in(dtype, tiny_llama, tmp_path / "base")
    trained(kind, base, make_table, tmp_path, dtype)
    out = merge(tmp_path, base, kind)
    probes = MergeProbes.read(out)
    assert probes.dtype == dtype
    assert len(probes.probes) == len(LENGTHS)
    assert check_merge(probes, serve(out / MODEL, dtype)) < (1e-5 if dtype == "float32" else 0.05)
    with pytest.raises(IntegrityError, match=r"not the one that was trained: .* delete the folder"):
        check_merge(probes, serve(base, dtype))


def test_one_changed_weight_is_noticed(tiny_llama: Path, make_table: MakeTable, tmp_path: Path) -> None:
    trained("lora", tiny_llama, make_table, tmp_path)
    out = merge(tmp_path, tiny_llama, "lora")
    path = out / MODEL / "model.safetensors"
    tensors, before = load_file(path), load_file(tiny_llama / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    save_file({**tensors, name: before[name]}, path, metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match=r"nats on average, where float32 may cost 0\.005"):
        check_merge(MergeProbes.read(out), serve(out / MODEL))


def test_what_is_merged_into_another_base_than_it_was_trained_with_is_not_held_against_it(
    tiny_llama: Path, make_table: MakeTable, tmp_path: Path
) -> None:
    trained("qlora", tiny_llama, make_table, tmp_path)
    assert not (merge(tmp_path, tiny_llama, "qlora", "base") / MERGE_PROBES).exists()


def test_probes_begin_rows_at_the_answer_and_within_it(
    tiny_llama: Path, make_table: MakeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "HEAD_PART", 100)
    table = make_table("train", [1, 8, 16, 24, 32, 40, *[48] * 60])
    loss = load_model(tiny_llama, torch.float32, CPU, METHODS["full"])
    probes = probe(loss, table, CPU).probes
    assert len(probes) == 16
    # The second half of each row is supervised.
    assert [len(each.input_ids) for each in probes[:5]] == [4, 10, 18, 28, 20]
    plain = plain_model(tiny_llama)
    for each in probes:
        row = int(each.row.removeprefix("train-"))
        assert list(each.input_ids) == table.input_ids(row)[: len(each.input_ids)].tolist()
        with torch.no_grad():
            expected = plain(torch.tensor([each.input_ids])).logits[0, -1].log_softmax(0)
        assert each.next_tokens[0][0] == int(expected.argmax())
        for token, log_probability in each.next_tokens:
            assert log_probability == pytest.approx(float(expected[token]), abs=1e-4)


def probes_of(*next_tokens: tuple[int, float]) -> MergeProbes:
    each = MergeProbe(row="a", input_ids=(1, 2), next_tokens=next_tokens)
    return MergeProbes(dtype="float32", probes=(each,))


def test_another_likeliest_token_passes_in_a_tie_alone() -> None:
    served = ((8, -0.6901), (7, -0.6903), (9, -9.0))
    check_merge(probes_of((7, -0.69), (8, -0.6902)), lambda prompts: [served])
    with pytest.raises(
        IntegrityError, match=r"in 1 of 1 places; after 2 tokens of row a training finds token"
    ):
        check_merge(probes_of((7, -0.66), (8, -0.70)), lambda prompts: [served])


def test_the_coarsest_type_that_weights_or_products_go_through_says_what_may_differ() -> None:
    probes = probes_of((7, -0.1))
    assert probes.through("bfloat16").through("float32").dtype == "bfloat16"
    assert probes.through("float16").dtype == "float16"
    check_merge(probes.through("bfloat16"), lambda prompts: [((7, -0.15),)])
    with pytest.raises(IntegrityError, match=r"differ by 0\.050 nats .* training finds token 7 \(-0\.10\)"):
        check_merge(probes, lambda prompts: [((7, -0.15),)])


def test_probes_that_are_gone_are_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"merge_probes\.json is gone.*delete that folder and run again"):
        MergeProbes.read(tmp_path)


def test_what_is_next_to_impossible_may_move_and_what_is_likely_may_not() -> None:
    one = MergeProbe(row="a", input_ids=(1,), next_tokens=((5, -0.0001), (6, -9.5), (7, -11.0)))
    merged = MergeProbes(dtype="bfloat16", probes=(one,))
    assert check_merge(merged, lambda prompts: [((5, -0.0002), (6, -8.0), (7, -13.0))]) < 0.001
    with pytest.raises(IntegrityError, match="the served model is not the one that was trained"):
        check_merge(merged, lambda prompts: [((5, -0.3), (6, -1.4), (7, -11.0))])
