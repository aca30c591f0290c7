from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunebook_train.inputs import MergeInputs
from tunebook_train.job import WEIGHTS
from tunebook_train.merge import MODEL, merge
from tunebook_train.merge_probes import MergeProbes

NO_PROBES = MergeProbes(dtype="float32", probes=())


def nothing(done: int, total: int, note: str = "") -> None:
    pass


@pytest.fixture
def weights(tiny_llama: Path, tmp_path: Path) -> Path:
    """The tiny Llama's weights, trained: each a little larger."""
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.25
    model.save_pretrained(tmp_path / WEIGHTS)
    NO_PROBES.write(tmp_path)
    return tmp_path / WEIGHTS


def run(weights: Path, base: Path, out: Path) -> Path:
    out.mkdir()
    merge(MergeInputs(into=None), trained_dir=weights.parent, base_dir=base, out=out, advance=nothing)
    return out / MODEL


def test_a_merged_model_reloads_with_tied_embeddings(weights: Path, tiny_llama: Path, tmp_path: Path) -> None:
    merged = run(weights, tiny_llama, tmp_path / "out")
    assert "lm_head.weight" not in load_file(merged / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(merged)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    trained = load_file(weights / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(model.lm_head.weight, trained)


def test_it_ships_what_the_base_renders_with(weights: Path, tiny_llama: Path, tmp_path: Path) -> None:
    merged = run(weights, tiny_llama, tmp_path / "out")
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json", "config.json"):
        assert (merged / name).read_bytes() == (tiny_llama / name).read_bytes()
    assert AutoTokenizer.from_pretrained(merged).chat_template


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_weights_are_served_in_the_type_of_the_base(
    key: str, weights: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.bfloat16).save_pretrained(base)
    config = json.loads((base / "config.json").read_text())
    config[key] = config.pop("dtype")
    (base / "config.json").write_text(json.dumps(config))
    merged = load_file(run(weights, base, tmp_path / "out") / "model.safetensors")
    trained = load_file(weights / "model.safetensors")
    assert all(torch.equal(tensor, trained[name].bfloat16()) for name, tensor in merged.items())
