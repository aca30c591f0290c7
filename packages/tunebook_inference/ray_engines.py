"""Batch generation by many engines, on the hosts of a Ray cluster: pipelines of `ray.data.llm`.

A pipeline starts its engines and ends them, so that this is for batches that take longer than that. An engine
that dies is started again, and what it had not answered is asked again; both are Ray Data's doing.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import ray
import ray.data

from tunebook_inference.generator import ChatRequest, Completion, Decoding, OnDone, TokenLogprobs
from tunebook_inference.vllm_engine import engine_environment
from tunebook_inference.vllm_requests import (
    MAX_NUM_SEQS,
    NEXT_TOKENS,
    Dtype,
    choice_ids,
    completion,
    sampling_params,
)
from tunebook_model.precision import Precision, compute_dtype
from tunebook_model.render import Renderer
from tunebook_model.shared_model import share_model
from tunebook_run.ray_cluster import connect
from tunebook_run.room import share_out
from tunebook_run.store import Store
from tunebook_spec.errors import StageError

logger = logging.getLogger(__name__)

BATCH_ROWS = 16
"""What is handed over, and asked again where an engine died, at once."""
NUM_BATCHES = MAX_NUM_SEQS // BATCH_ROWS
"""Under way at one engine; none queues what another could answer."""


@dataclass
class RayEngines:
    """A generator whose engines live on the hosts of a cluster; each call starts them."""

    model: Path
    """Folder in Hugging Face layout, on this machine."""
    renderer: Renderer
    decoding: Decoding
    store: Store
    """Where hosts find it that do not see this machine's disk."""
    address: str
    """Of the cluster."""
    num_engines: int
    cores: int | None = None
    """Of each, where there are no GPUs; none: the hosts' are shared out."""
    takes_schemas: bool = False

    def start(self) -> None:
        connect(self.address, "answer on this machine alone")
        for name in ("ray.data", "ray.llm"):
            logging.getLogger(name).setLevel(logging.ERROR)  # rows that failed are told by who asked
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False

    @cached_property
    def dtype(self) -> Dtype:
        """What the hosts compute in, which is told once."""
        self.start()
        ask = ray.remote(compute_dtype).options(num_cpus=0, num_gpus=0.001 if "GPU" in self._resources else 0)
        precision: Precision = ray.get(ask.remote())
        each = ", ".join(f"{number} {name}" for name, number in self._resources.items())
        told = "engines on the Ray cluster that answer: %d, with %s each, in %s"
        logger.info(told, self.num_engines, each, precision.reason)
        return precision.dtype

    def generate(self, requests: Sequence[ChatRequest], on_done: OnDone) -> list[Completion]:
        choices = {request.id: choice_ids(request, self.renderer) for request in requests if request.choices}
        asked = [
            {
                "tokenized_prompt": list(self.renderer.prompt_ids(request.messages, request.tools)),
                "sampling_params": sampling_params(
                    request, self.decoding, self.renderer, choices.get(request.id, ())
                ),
            }
            for request in requests
        ]
        done: dict[int, Completion] = {}
        for number, said in self._said(asked):
            request = requests[number]
            done[number] = self._completion(request, choices.get(request.id, ()), said)
            on_done(done[number])
        return [done[number] for number in range(len(requests))]

    def next_tokens(self, prompts: Sequence[Sequence[int]]) -> list[TokenLogprobs]:
        """The likeliest next tokens of each prompt, given as token ids.

        Raises:
            StageError: an engine could not tell of one.
        """
        asked = [{"tokenized_prompt": list(ids), "sampling_params": dict(NEXT_TOKENS)} for ids in prompts]
        found: dict[int, TokenLogprobs] = {}
        for number, said in self._said(asked):
            if said["__inference_error__"]:
                raise StageError(f"an engine of the cluster did not answer: {said['__inference_error__']}")
            found[number] = _places(said)[0]
        return [found[number] for number in range(len(prompts))]

    def _completion(self, request: ChatRequest, choices: Sequence[int], said: dict[str, Any]) -> Completion:
        if error := said["__inference_error__"]:
            return Completion(request.id, "", "error", 0, 0, error=error)
        ids = said["generated_tokens"]
        return completion(
            request.id,
            prompt_tokens=said["num_input_tokens"],
            token_ids=ids,
            finish_reason="stop" if ids and ids[-1] in self.renderer.end_of_turn else "length",
            places=_places(said),
            choices=choices,
            renderer=self.renderer,
        )

    def _said(self, asked: Sequence[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
        """What each was answered, by its number, as batches are finished."""
        if not asked:
            return
        self.start()
        pipeline = self._pipeline()
        rows = [{"number": number, "asked": pickle.dumps(each)} for number, each in enumerate(asked)]
        num_blocks = -(-len(rows) // BATCH_ROWS)
        for row in pipeline(ray.data.from_items(rows, override_num_blocks=num_blocks)).iter_rows():
            yield row["number"], pickle.loads(row["said"])

    def _pipeline(self) -> Any:
        from ray.data.llm import build_processor, vLLMEngineProcessorConfig

        from tunebook_inference.ray_engine import HostEngine

        resources = self._resources
        environment = engine_environment(on_gpu="GPU" in resources)
        if cores := resources.get("CPU"):
            # Engines of one host would be bound to the same cores.
            environment |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(cores)}
        config = vLLMEngineProcessorConfig(
            model_source=str(self.model),
            engine_kwargs={"dtype": self.dtype},
            batch_size=BATCH_ROWS,
            max_concurrent_batches=NUM_BATCHES,
            max_tasks_in_flight_per_actor=NUM_BATCHES,
            concurrency=(self.num_engines, self.num_engines),
            placement_group_config={"bundles": [resources]},
            runtime_env={"env_vars": environment},
            should_continue_on_error=True,
            log_engine_metrics=False,
            chat_template_stage=False,
            tokenize_stage=False,
            detokenize_stage=False,
        )
        # Nothing to speak of: the engines have the cores, and each task at once is a process more.
        light = {"num_cpus": 0, "concurrency": 1}
        pipeline = build_processor(
            config, postprocess=_kept, preprocess_map_kwargs=light, postprocess_map_kwargs=light
        )
        name = "vLLMEngineStage"
        stage = pipeline.get_stage_by_name(name)
        told = {
            "shared": share_model(self.model, self.store),
            "storage_url": str(self.store.local_root or self.store.url),
            "decoding": self.decoding,
            "takes_schemas": self.takes_schemas,
        }
        # Not by assignment, which would validate it a second time, and ask for a GPU then.
        pipeline.stages[name] = stage.model_copy(
            update={"fn": HostEngine, "fn_constructor_kwargs": stage.fn_constructor_kwargs | told}
        )
        return pipeline

    @cached_property
    def _resources(self) -> dict[str, int]:
        hosts = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return share_out(hosts, self.num_engines, self.cores)


def _kept(row: dict[str, Any]) -> dict[str, Any]:
    return {"number": row["number"], "said": row["said"]}


def _places(said: dict[str, Any]) -> tuple[TokenLogprobs, ...]:
    return tuple(
        tuple((id, told["logprob"]) for id, told in sorted(place.items(), key=lambda entry: entry[1]["rank"]))
        for place in said["logprobs"] or ()
    )
