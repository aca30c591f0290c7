from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.unit.train.tables import CPU
from tunebook_train.merge import MODEL, merge
from tunebook_train.step import SupervisedLoss, load_model


def merged(loss_model: SupervisedLoss, base: Path, folder: Path) -> Path:
    """Weights that differ from the base's, merged."""
    with torch.no_grad():
        for parameter in loss_model.parameters():
            parameter.mul_(1.25)
    loss_model.model.save_pretrained(folder / "weights")
    merge(
        weights_dir=folder / "weights",
        base_dir=base,
        out=folder,
        advance=lambda done, total, note="": None,
    )
    return folder / MODEL


def test_merged_embeddings_are_tied_and_those_that_were_trained(
    loss_model: SupervisedLoss, tiny_llama: Path, tmp_path: Path
) -> None:
    target = merged(loss_model, tiny_llama, tmp_path)
    model = load_model(target, torch.float32, CPU).model
    assert model.lm_head.weight is model.model.embed_tokens.weight
    trained = dict(loss_model.model.named_parameters())
    assert all(torch.equal(p, trained[name]) for name, p in model.named_parameters())


def test_all_that_the_base_ships_beside_its_weights_is_copied_byte_for_byte(
    loss_model: SupervisedLoss, tiny_llama: Path, tmp_path: Path
) -> None:
    target = merged(loss_model, tiny_llama, tmp_path)
    shipped = {path.name for path in tiny_llama.iterdir() if path.suffix != ".safetensors"}
    assert {"config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"} <= shipped
    assert all((target / name).read_bytes() == (tiny_llama / name).read_bytes() for name in shipped)
    assert len(json.loads((target / "generation_config.json").read_text())["eos_token_id"]) == 2


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_weights_are_served_in_the_type_of_the_base(
    key: str, loss_model: SupervisedLoss, tiny_llama: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.bfloat16).save_pretrained(base)
    config = json.loads((base / "config.json").read_text())
    config[key] = config.pop("dtype")
    (base / "config.json").write_text(json.dumps(config))
    target = merged(loss_model, base, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(target, dtype="auto")
    assert model.dtype == torch.bfloat16
    trained = dict(loss_model.model.named_parameters())
    assert all(torch.equal(p, trained[name].bfloat16()) for name, p in model.named_parameters())
