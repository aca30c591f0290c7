from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from tunebook_spec.method import LoraMethod
from tunebook_train.targets import target_problems

KNOWN = "its linear layers are: down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"


def problems(base: Path, **fields: Any) -> list[tuple[str, str]]:
    return list(target_problems(LoraMethod(kind="lora", **fields), base))


@pytest.mark.parametrize(
    "target",
    [
        "all-linear",
        ("q_proj", "v_proj"),
        ("model.layers.0.mlp.down_proj",),
        ("self_attn.q_proj",),
        r".*\.layers\.1\..*_proj",
    ],
    ids=str,
)
def test_targets_that_name_linear_layers_are_let_through(
    tiny_llama: Path, target: str | tuple[str, ...]
) -> None:
    assert problems(tiny_llama, target_modules=target) == []


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (("q_proj", "q_prjo"), f"no module matches 'q_prjo'; {KNOWN}"),
        (("proj",), f"no module matches 'proj'; {KNOWN}"),
        (
            "q_proj",
            "no module matches 'q_proj' (a string is a regular expression for whole names; a name stands in a"
            f" list); {KNOWN}",
        ),
        (
            ("q_proj", "input_layernorm"),
            f"'input_layernorm' matches 'model.layers.0.input_layernorm', which is no linear layer; {KNOWN}",
        ),
        (("mlp",), f"'mlp' matches 'model.layers.0.mlp', which is no linear layer; {KNOWN}"),
        (
            r"model\.layers\.0\..*",
            r"'model\\.layers\\.0\\..*' matches 'model.layers.0.input_layernorm', which is no linear layer;"
            f" {KNOWN}",
        ),
    ],
    ids=str,
)
def test_a_target_that_cannot_be_trained_is_refused_with_what_there_is(
    tiny_llama: Path, target: str | tuple[str, ...], message: str
) -> None:
    assert problems(tiny_llama, target_modules=target) == [("target_modules", message)]


@pytest.mark.parametrize("target", [("lm_head",), ("embed_tokens", "q_proj"), ".*(lm_head|q_proj)"], ids=str)
@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_and_head_are_refused_tied_or_not(
    tiny_llama: Path, tmp_path: Path, target: str | tuple[str, ...], tied: bool
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    ((_, message),) = problems(tmp_path, target_modules=target)
    assert "which adapters leave as it is" in message
    assert "name it in modules_to_save" in message


def test_names_are_read_from_every_weight_file(tiny_llama: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(tiny_llama).save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert problems(tmp_path, target_modules=["model.layers.1.mlp.down_proj"]) == []


@pytest.mark.parametrize("tied", [True, False])
def test_modules_to_save_are_embeddings_head_and_norms(tiny_llama: Path, tmp_path: Path, tied: bool) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    assert (
        problems(tmp_path, modules_to_save=["embed_tokens", "lm_head", "input_layernorm", "model.norm"]) == []
    )
    assert problems(tmp_path, modules_to_save=["embed", "q_proj"]) == [
        (
            "modules_to_save",
            "no module's name ends in 'embed'; there are: embed_tokens, input_layernorm, lm_head, norm,"
            " post_attention_layernorm",
        ),
        (
            "modules_to_save",
            "'q_proj' is a linear layer, which gets an adapter: name it in target_modules",
        ),
    ]
