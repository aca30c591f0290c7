from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, trainers
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer, Sequence, Split
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXTS = [
    "What does BP mean?\n\nBlood pressure.\n\n1. It is measured in 2024.\n",
    "<think>\n\n</think>\n\n",
] * 4
# As in Llama 3 and Qwen, newlines stay together, so that a prompt's last ones can meet the answer's first.
NEWLINES_TOGETHER = Sequence(
    [
        Split(
            Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"),
            "isolated",
        ),
        ByteLevel(add_prefix_space=False, use_regex=False),
    ]
)

MakeTokenizer = Callable[..., PreTrainedTokenizerFast]


@pytest.fixture(scope="session")
def make_tokenizer() -> MakeTokenizer:
    """Trains a byte-level tokenizer with the given control tokens and chat template."""

    def make(
        chat_template: str = CHATML,
        special: tuple[str, ...] = ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        pre_tokenizer: PreTokenizer = NEWLINES_TOGETHER,
    ) -> PreTrainedTokenizerFast:
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizer
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=[AddedToken(token, normalized=False) for token in special],
            initial_alphabet=ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(TEXTS, trainer)
        return PreTrainedTokenizerFast(
            tokenizer_object=backend, bos_token=special[0], eos_token=special[-1], chat_template=chat_template
        )

    return make


@pytest.fixture
def model_folder(tmp_path: Path, make_tokenizer: MakeTokenizer) -> Path:
    """A folder that passes every check; its path has spaces."""
    folder = tmp_path / "my models" / "tiny llama"
    make_tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": 2}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}))
    save_file({"weight": torch.zeros(2)}, folder / "model.safetensors")
    return folder
