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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tunebook_inference.generator import ChatRequest, Completion, Decoding, OnDone, TokenLogprobs
from tunebook_inference.vllm_requests import (
    MAX_NUM_SEQS,
    NEXT_TOKENS,
    Dtype,
    choice_ids,
    completion,
    engine_arguments,
    likeliest,
    sampling_params,
)
from tunebook_model.render import Renderer
from tunebook_spec.errors import MissingExtraError, StageError

logger = logging.getLogger(__name__)


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
        choices = {request.id: choice_ids(request, self.renderer) for request in requests if request.choices}
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
        for number, ids in enumerate(prompts):
            (prompt,) = self._engine.renderer.render_cmpl([{"prompt_token_ids": list(ids)}])
            self._engine.add_request(str(number), prompt, SamplingParams(**NEXT_TOKENS))
        found: dict[int, TokenLogprobs] = {}
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                found[int(output.request_id)] = likeliest(output.outputs[0].logprobs[0])
        return [found[number] for number in range(len(prompts))]

    def _new_engine(self) -> Any:
        import_vllm()
        from vllm import EngineArgs, LLMEngine

        with _quiet(), _without_llvmlite():
            arguments = engine_arguments(
                self.model,
                self.dtype,
                self.decoding,
                max_num_seqs=self.max_num_seqs,
                takes_schemas=self.takes_schemas,
            )
            started = time.monotonic()
            engine = LLMEngine.from_engine_args(EngineArgs(use_tqdm_on_load=False, **arguments))
        logger.info("vllm started in %.1f s dtype=%s", time.monotonic() - started, self.dtype)
        return engine

    def _add(self, request: ChatRequest, choices: Sequence[int], finish: OnDone) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        ids = self.renderer.prompt_ids(request.messages, request.tools)
        context = self._engine.model_config.max_model_len
        if len(ids) >= context:
            error = f"the prompt has {len(ids)} tokens and the model reads {context}, the answer included"
            finish(Completion(request.id, "", "error", len(ids), 0, error=error))
            return
        assert request.json_schema is None or self.takes_schemas, "the engine was started without a tokenizer"
        fields = sampling_params(request, self.decoding, self.renderer, choices)
        if fields["structured_outputs"] is not None:
            fields["structured_outputs"] = StructuredOutputsParams(**fields["structured_outputs"])
        (prompt,) = self._engine.renderer.render_cmpl([{"prompt_token_ids": ids}])
        params = SamplingParams(output_kind=RequestOutputKind.FINAL_ONLY, **fields)
        self._engine.add_request(request.id, prompt, params)

    def _completion(self, output: Any, choices: Sequence[int]) -> Completion:
        answer, prompt_tokens = output.outputs[0], len(output.prompt_token_ids)
        if answer.finish_reason not in ("stop", "length"):
            error = f"vLLM ended the answer with {answer.finish_reason!r}"
            return Completion(
                output.request_id, "", "error", prompt_tokens, len(answer.token_ids), error=error
            )
        return completion(
            output.request_id,
            prompt_tokens=prompt_tokens,
            token_ids=answer.token_ids,
            finish_reason=answer.finish_reason,
            places=tuple(map(likeliest, answer.logprobs or ())),
            choices=choices,
            renderer=self.renderer,
            cached_tokens=output.num_cached_tokens or 0,
        )


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


def engine_environment(*, on_gpu: bool | None = None) -> dict[str, str]:
    """What every vLLM process wants: every core computes, and no hub is asked.

    Args:
        on_gpu: where it computes; None: this machine tells.
    """
    on_gpu = torch.cuda.is_available() if on_gpu is None else on_gpu
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    # Else it compiles, for two seconds on a CPU, by what it ranks the first token that it tells the odds of.
    eager = {} if on_gpu else {"TORCHDYNAMO_DISABLE": "1"}
    return eager | {
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
