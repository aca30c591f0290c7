from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.postgres import postgres_url  # noqa: F401  (a fixture)
from tunebook_run.store import Store

# Settings of whoever runs the tests must not reach them.
for name in [name for name in os.environ if name.startswith("TUNEBOOK_")]:
    del os.environ[name]
os.environ["HF_HUB_OFFLINE"] = "1"
# Before torch is loaded: these models are so small that a second thread costs more than it does.
os.environ["OMP_NUM_THREADS"] = "1"

# Nothing of what is imported to collect the tests can be let go again, and there is much to look through.
gc.disable()

LLAMA3_TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{{- message['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
    "{%- endif %}"
)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def learn_to_say_yes(model: Any, tokenizer: Any) -> None:
    """Teach it to answer every question with one word and to stop: random weights never stop."""
    import torch

    questions = ["Why?", "Name the colour.", "What is 2+2?", "Where is it?", "Tell me a story."]
    chats = [[{"role": "user", "content": q}, {"role": "assistant", "content": "Yes."}] for q in questions]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(60):
        ids = tokenizer.apply_chat_template(chats[step % len(chats)], return_tensors="pt", return_dict=False)
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 2-layer Llama with random weights, a byte-level tokenizer and a Llama-3 chat template."""
    return make_llama(tmp_path_factory.mktemp("models") / "tiny llama", talks=False)


@pytest.fixture(scope="session")
def talking_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, taught to answer every question with yes, and to stop there."""
    return make_llama(tmp_path_factory.mktemp("models") / "tiny llama", talks=True)


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    """The URL of a folder in a local S3 server."""
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        query = f"endpoint_override={host}:{port}&scheme=http&allow_bucket_creation=true&region=us-east-1"
        yield f"s3://bucket/runs?{query}"
    server.stop()


def make_llama(folder: Path, *, talks: bool) -> Path:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    special += ["<|start_header_id|>", "<|end_header_id|>"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    corpus = ["What colour is the sky? It is blue.", "system user assistant"] * 8
    trainer = trainers.BpeTrainer(vocab_size=512, special_tokens=special, initial_alphabet=alphabet)
    backend.train_from_iterator(corpus, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        pad_token="<|end_of_text|>",
        chat_template=LLAMA3_TEMPLATE,
        model_max_length=512,
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    stops = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    if talks:
        learn_to_say_yes(model, tokenizer)
    model.generation_config = GenerationConfig(bos_token_id=tokenizer.bos_token_id, eos_token_id=stops)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return Store(str(tmp_path / "with space" / "runs"), tmp_path / "cache")
    store = Store(request.getfixturevalue("s3_url"), tmp_path / "cache")
    if not store.exists(""):
        store.filesystem.create_dir("bucket")
    store.delete("")
    return store
