"""Batch generation with vLLM inside this process, which is meant to end with its work.

vLLM reads its environment once, at import, and never gives its memory back: a process runs one engine.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig

from tunebook_inference.generator import ChatRequest, Completion, Decoding, OnDone, TokenLogprobs
from tunebook_model.render import Renderer
from tunebook_spec.errors import MissingExtraError, StageError

logger = logging.getLogger(__name__)

KV_CACHE_GIB = 2
"""Memory for keys and values on a CPU, where the model can fill it; bounds the longest conversation."""
MAX_NUM_SEQS = 256
NEXT_TOKENS = 20
"""As many as vLLM tells of."""

Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass
class VLLMEngine:
    """A generator that renders chats itself, so that serving reads the ids that training saw.

    The engine starts at the first request: with nothing left to answer, none is started.
    """

    model: Path
    """Folder in Hugging Face layout."""
    renderer: Renderer
    decoding: Decoding
    dtype: Dtype
    max_num_seqs: int = MAX_NUM_SEQS
    """Most answers under way at once."""
    takes_schemas: bool = False
    """Whether requests may bring a JSON Schema, to which the answer is then held token by token."""
    _engine: Any = field(default=None, init=False, repr=False)

    def start(self) -> None:
        if self._engine is None:
            self._engine = self._new_engine()

    def generate(self, requests: Sequence[ChatRequest], on_done: OnDone) -> list[Completion]:
        done: dict[str, Completion] = {}

        def finish(completion: Completion) -> None:
            done[completion.id] = completion
            on_done(completion)

        if requests:
            self.start()
        choices = {request.id: self._choice_ids(request) for request in requests if request.choices}
        for request in requests:
            self._add(request, choices.get(request.id, ()), finish)
        while self._engine is not None and self._engine.has_unfinished_requests():
            for output in self._engine.step():
                finish(self._completion(output, choices.get(output.request_id, ())))
        return [done[request.id] for request in requests]

    def next_tokens(self, prompts: Sequence[Sequence[int]]) -> list[TokenLogprobs]:
        """The likeliest next tokens of each prompt, given as token ids."""
        from vllm import SamplingParams

        self.start()
        params = SamplingParams(temperature=0, max_tokens=1, logprobs=NEXT_TOKENS, detokenize=False)
        for number, ids in enumerate(prompts):
            (prompt,) = self._engine.renderer.render_cmpl([{"prompt_token_ids": list(ids)}])
            self._engine.add_request(str(number), prompt, params)
        found: dict[int, TokenLogprobs] = {}
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                found[int(output.request_id)] = _likeliest(output.outputs[0].logprobs[0])
        return [found[number] for number in range(len(prompts))]

    def _new_engine(self) -> Any:
        import_vllm()
        from vllm import EngineArgs, LLMEngine

        with _quiet(), _without_llvmlite():
            arguments = EngineArgs(
                model=str(self.model),
                dtype=self.dtype,
                max_model_len=-1,  # the model's own, or as much as the key-value memory holds
                max_num_seqs=self.max_num_seqs,
                skip_tokenizer_init=not self.takes_schemas,  # a grammar is made of the tokenizer's words
                generation_config="vllm",  # a model's own would sample; its stop ids come from the renderer
                disable_log_stats=True,
                use_tqdm_on_load=False,
                seed=self.decoding.seed,
                **machine_arguments(self.model, self.dtype, self.max_num_seqs),
            )
            started = time.monotonic()
            engine = LLMEngine.from_engine_args(arguments)
        logger.info("vllm started in %.1f s dtype=%s", time.monotonic() - started, self.dtype)
        return engine

    def _choice_ids(self, request: ChatRequest) -> tuple[int, ...]:
        tokenizer = self.renderer.tokenizer
        ids = tuple(tokenizer.convert_tokens_to_ids(list(request.choices)))
        for choice, id in zip(request.choices, ids, strict=True):
            if id is None or tokenizer.decode([id]) != choice:
                raise StageError(f"{self.model} has no token {choice!r}, so its probability cannot be read")
        return ids

    def _add(self, request: ChatRequest, choice_ids: Sequence[int], finish: OnDone) -> None:
        ids = self.renderer.prompt_ids(request.messages, request.tools)
        context = self._engine.model_config.max_model_len
        if len(ids) >= context:
            error = f"the prompt has {len(ids)} tokens and the model reads {context}, the answer included"
            finish(Completion(request.id, "", "error", len(ids), 0, error=error))
            return
        (prompt,) = self._engine.renderer.render_cmpl([{"prompt_token_ids": ids}])
        self._engine.add_request(request.id, prompt, self._sampling(request, choice_ids))

    def _sampling(self, request: ChatRequest, choice_ids: Sequence[int]) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        own = request.temperature is None
        schema = request.json_schema
        assert schema is None or self.takes_schemas, "the engine was started without a tokenizer"
        return SamplingParams(
            temperature=self.decoding.temperature if own else request.temperature,
            seed=self.decoding.seed + request.sample,
            structured_outputs=StructuredOutputsParams(json=dict(schema)) if schema else None,
            max_tokens=1 if choice_ids else request.max_tokens,
            logprobs=request.top_logprobs or None,
            logprob_token_ids=list(choice_ids) or None,
            stop_token_ids=sorted(self.renderer.end_of_turn),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _completion(self, output: Any, choice_ids: Sequence[int]) -> Completion:
        answer, prompt_tokens = output.outputs[0], len(output.prompt_token_ids)
        if answer.finish_reason not in ("stop", "length"):
            error = f"vLLM ended the answer with {answer.finish_reason!r}"
            return Completion(
                output.request_id, "", "error", prompt_tokens, len(answer.token_ids), error=error
            )
        ids = tuple(answer.token_ids)
        if choice_ids:
            (place,) = answer.logprobs
            weighed = tuple(float(place[id].logprob) for id in choice_ids)
            said = self.renderer.tokenizer.decode(ids)
            return Completion(
                output.request_id,
                said,
                "stop",
                prompt_tokens,
                len(ids),
                ids,
                choice_logprobs=weighed,
                cached_tokens=output.num_cached_tokens or 0,
            )
        spoken = ids[:-1] if ids and ids[-1] in self.renderer.end_of_turn else ids
        return Completion(
            output.request_id,
            self.renderer.tokenizer.decode(spoken, skip_special_tokens=True),
            answer.finish_reason,
            prompt_tokens,
            len(ids),
            ids,
            tuple(map(_likeliest, answer.logprobs or ())),
            cached_tokens=output.num_cached_tokens or 0,
        )


def _likeliest(place: Mapping[int, Any]) -> TokenLogprobs:
    ranked = sorted(place.items(), key=lambda entry: entry[1].rank)
    return tuple((id, entry.logprob) for id, entry in ranked)


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


def import_vllm() -> None:
    """Import vLLM under the environment of an engine in this process, or in one forked from it.

    Raises:
        MissingExtraError: it is not installed.
        StageError: it is imported already, under another environment.
    """
    set_environment()
    with _quiet():
        try:
            from vllm import EngineArgs, LLMEngine, SamplingParams  # noqa: F401
            from vllm.platforms import current_platform

            if current_platform.is_cpu():
                import vllm.v1.worker.cpu_worker  # noqa: F401
        except ModuleNotFoundError as error:
            message = "vLLM is not installed; install the extra of this machine: "
            message += "`pip install 'tunebook[cpu]'` or `pip install 'tunebook[gpu]'`"
            raise MissingExtraError(message) from error


def set_environment() -> None:
    """Prepare this process for an engine in it; vLLM reads its environment at import.

    Raises:
        StageError: vLLM is imported already, under another environment.
    """
    in_process = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CONFIGURE_LOGGING": "0"}
    wanted = engine_environment() | in_process
    for name in ("vllm", "torch._library"):
        logging.getLogger(name).setLevel(logging.ERROR)  # warnings are about the choices made here
    if "vllm" in sys.modules and any(os.environ.get(name) != value for name, value in wanted.items()):
        raise StageError("vLLM is imported already; start the engine in a process of its own")
    os.environ |= wanted


def engine_environment() -> dict[str, str]:
    """What every vLLM process wants: every core computes, and no hub is asked."""
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    return {
        "VLLM_CPU_OMP_THREADS_BIND": cores,
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }


@contextlib.contextmanager
def _without_llvmlite() -> Iterator[None]:
    """Hide from an engine's start what it would fall over.

    It looks for kernels in the `__dict__` of whatever any module holds (vLLM 0.32), and llvmlite, which numba
    loads, holds a library that answers to that name too, with one of its functions.
    """
    name = "llvmlite.binding.ffi"
    module = sys.modules.pop(name, None)
    try:
        yield
    finally:
        if module is not None:
            sys.modules[name] = module


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing of what vLLM does inside, and of what it prints from C++, is meant for stdout or for users."""
    sys.stdout.flush()
    saved = os.dup(1)
    try:
        os.dup2(2, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        sys.stdout.flush()
        os.dup2(saved, 1)
        os.close(saved)
