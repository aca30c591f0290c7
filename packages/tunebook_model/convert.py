"""GGUF files to Hugging Face layout: weights dequantised to bf16, the tokenizer mended if need be."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.integrations.gguf.gguf_tokenizer_mapping import (
    GGUF_PRE_TOKENIZER_SPLITS,
    get_gguf_tokenizer,
)

from tunebook_model.folder import check_layout
from tunebook_spec.errors import ModelError

logger = logging.getLogger(__name__)

_SMOLLM = "smollm"
_PLAIN_BYTE_LEVEL = "gpt-2"
"""The one `pre` that upstream's default, plain ByteLevel, is right for."""


def convert_gguf(gguf: Path, target: Path) -> None:
    """Write a GGUF model as a folder in Hugging Face layout, all of it or nothing.

    Raises:
        ModelError: the file is no GGUF, has no chat template, or splits text in a way unknown upstream.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        if target.is_dir():
            return  # another process was faster
        pre = _check_tokenizer(gguf)
        logger.info("converting gguf=%s target=%s", gguf, target)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".converting-") as scratch:
            folder = Path(scratch) / target.name
            _convert(gguf, folder, pre)
            check_layout(folder)
            folder.rename(target)


def _check_tokenizer(gguf: Path) -> str | None:
    """The file's `tokenizer.ggml.pre`, if conversion will tokenise as the file says."""
    with gguf.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ModelError(f"{gguf}: not a GGUF file; give a .gguf file, or a folder with `kind: folder`")
    _, tokenizer, config = get_gguf_tokenizer(str(gguf))
    if not config.get("chat_template"):
        raise ModelError(f"{gguf}: no chat template inside; take a GGUF of the instruct version of the model")
    pre: str | None = tokenizer.get("pre_tokenizer_type")
    byte_level = tokenizer.get("tokenizer_type") == "gpt2"  # only these split text by a rule that `pre` names
    if byte_level and pre not in {*GGUF_PRE_TOKENIZER_SPLITS, _SMOLLM, _PLAIN_BYTE_LEVEL}:
        raise ModelError(
            f"{gguf}: tokenizer.ggml.pre is {pre!r}, a splitting rule that transformers does not know, so"
            " that tokens would differ from those that the model was trained on; give the original model with"
            " `kind: folder` or `kind: hub`"
        )
    return pre


def _convert(gguf: Path, folder: Path, pre: str | None) -> None:
    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    # Packed weights could be neither trained nor saved.
    quantization = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        **source, dtype=torch.bfloat16, quantization_config=quantization
    )
    tokenizer.model_max_length = model.config.max_position_embeddings
    if pre == _SMOLLM:
        _mend_smollm(tokenizer, model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _mend_smollm(tokenizer: Any, model: Any) -> None:
    """Split digits as SmolLM does, and pad with a token that ends no turn.

    Upstream has no entry for `smollm` and falls back to plain ByteLevel, which tokenises digits after
    blank lines otherwise; and the file pads with its end-of-turn token.
    """
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    )
    tokenizer.pad_token = "<|endoftext|>"
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
