"""Between chats and vLLM: what an engine is asked, and what its answers say, wherever the engine runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig

from tunebook_inference.generator import ChatRequest, Completion, Decoding, FinishReason, TokenLogprobs
from tunebook_model.render import Renderer
from tunebook_spec.errors import StageError

KV_CACHE_GIB = 2
"""Memory for keys and values on a CPU, where the model can fill it; bounds the longest conversation."""
MAX_NUM_SEQS = 256
NEXT_TOKENS = {"temperature": 0, "max_tokens": 1, "logprobs": 20, "detokenize": False}
"""Asks for the likeliest next tokens, as many as vLLM tells of."""

Dtype = Literal["float32", "bfloat16", "float16"]


def choice_ids(request: ChatRequest, renderer: Renderer) -> tuple[int, ...]:
    """The token of each choice.

    Raises:
        StageError: a choice is no single token of this model.
    """
    tokenizer = renderer.tokenizer
    ids = tuple(tokenizer.convert_tokens_to_ids(list(request.choices)))
    for choice, id in zip(request.choices, ids, strict=True):
        if id is None or tokenizer.decode([id]) != choice:
            raise StageError(
                f"{tokenizer.name_or_path} has no token {choice!r}, so its probability cannot be read"
            )
    return ids


def sampling_params(
    request: ChatRequest, decoding: Decoding, renderer: Renderer, choices: Sequence[int]
) -> dict[str, Any]:
    """The fields of vLLM's SamplingParams, `structured_outputs` by the fields of its own."""
    schema = request.json_schema
    return {
        "temperature": decoding.temperature if request.temperature is None else request.temperature,
        "seed": decoding.seed + request.sample,
        "structured_outputs": {"json": dict(schema)} if schema else None,
        "max_tokens": 1 if choices else request.max_tokens,
        "logprobs": request.top_logprobs or None,
        "logprob_token_ids": list(choices) or None,
        "stop_token_ids": sorted(renderer.end_of_turn),
        "detokenize": False,
    }


def completion(
    id: str,
    *,
    prompt_tokens: int,
    token_ids: Sequence[int],
    finish_reason: FinishReason,
    places: Sequence[TokenLogprobs],
    choices: Sequence[int],
    renderer: Renderer,
    cached_tokens: int = 0,
) -> Completion:
    """What an engine's answer says.

    Args:
        id: of the request.
        prompt_tokens: that the engine read.
        token_ids: of the answer, end-of-turn token included.
        finish_reason: none of an answer that failed.
        places: what was told of each place's likeliest tokens; none where nothing was asked.
        choices: tokens of the request's choices.
        renderer: of the chats.
        cached_tokens: of the prompt's, those that had been read before.
    """
    ids = tuple(token_ids)
    if choices:
        (place,) = places
        weighed = dict(place)
        return Completion(
            id,
            renderer.tokenizer.decode(ids),
            "stop",
            prompt_tokens,
            len(ids),
            ids,
            choice_logprobs=tuple(float(weighed[each]) for each in choices),
            cached_tokens=cached_tokens,
        )
    spoken = ids[:-1] if ids and ids[-1] in renderer.end_of_turn else ids
    return Completion(
        id,
        renderer.tokenizer.decode(spoken, skip_special_tokens=True),
        finish_reason,
        prompt_tokens,
        len(ids),
        ids,
        tuple(places),
        cached_tokens=cached_tokens,
    )


def likeliest(place: Mapping[int, Any]) -> TokenLogprobs:
    """The tokens that vLLM told of at one place, best first."""
    ranked = sorted(place.items(), key=lambda entry: entry[1].rank)
    return tuple((id, entry.logprob) for id, entry in ranked)


def engine_arguments(
    model: Path, dtype: Dtype, decoding: Decoding, *, max_num_seqs: int, takes_schemas: bool
) -> dict[str, Any]:
    """Arguments of an engine that answers batches on this machine."""
    return {
        "model": str(model),
        "dtype": dtype,
        "max_model_len": -1,  # the model's own, or as much as the key-value memory holds
        "max_num_seqs": max_num_seqs,
        "skip_tokenizer_init": not takes_schemas,  # a grammar is made of the tokenizer's words
        "generation_config": "vllm",  # a model's own would sample; its stop ids come from the renderer
        "disable_log_stats": True,
        "seed": decoding.seed,
        **machine_arguments(model, dtype, max_num_seqs),
    }


def machine_arguments(model: Path, dtype: Dtype, num_seqs: int) -> dict[str, Any]:
    """Engine arguments by name: nothing on a GPU, where vLLM's own choices are good."""
    if torch.cuda.is_available():
        return {}
    return {
        "enforce_eager": True,
        "block_size": 32,  # 128 by default, so that shorter shared prompts would never be found again
        "enable_chunked_prefill": False,  # with it, a seeded request whose prompt is cut ends the engine
        "kv_cache_memory_bytes": kv_cache_bytes(model, dtype, num_seqs),
    }


def kv_cache_bytes(model: Path, dtype: Dtype, num_seqs: int) -> int:
    """What that many conversations of the model's full length fill, at most `KV_CACHE_GIB`.

    vLLM writes zeros over all of it and makes an object for every 32 tokens of it, which takes seconds.
    """
    config = AutoConfig.from_pretrained(model).get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    bytes_per_token = 2 * config.num_hidden_layers * heads * head_dim * getattr(torch, dtype).itemsize
    return int(min(KV_CACHE_GIB * 2**30, num_seqs * config.max_position_embeddings * bytes_per_token))
