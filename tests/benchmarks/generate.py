"""Batch generation by the embedded model: our engine against vLLM as it comes, and transformers.

Everyone is fed the same token ids, greedy, up to 64 tokens an answer, in the same type. What is timed is
loading the model, or starting the engine, and every answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import US, Answer, BenchError, Benchmark, Peer
from tunebook_data.datasets.medical_glossary import rows as glossary_rows
from tunebook_model import builtin
from tunebook_model.conversation import Message
from tunebook_model.precision import compute_dtype
from tunebook_model.render import Renderer
from tunebook_run.settings import Settings

SYSTEM = "Expand clinical abbreviations."
MAX_TOKENS = 64
BEGINNING = 4
"""Tokens of an answer by which two are compared: sums rounded in another order part greedy answers later."""
SAME = 0.75
"""The least share of answers that begin alike."""
AS_LONG = 0.1
"""By this share all answers together may be longer or shorter than ours."""


def make(folder: Path, size: int) -> None:
    assets = Settings.read().assets_dir
    model = builtin.require(assets)
    renderer = Renderer.load(model, {})
    prompts = []
    for row in glossary_rows("glossary", assets_dir=assets, rows=size):
        system: Message = {"role": "system", "content": SYSTEM}
        prompts.append([system, *row.messages[:-1]])
    told = {
        "model": str(model),
        "dtype": compute_dtype().dtype,
        "max_tokens": MAX_TOKENS,
        "stop_token_ids": sorted(renderer.end_of_turn),
        "messages": prompts,
        "input_ids": [renderer.prompt_ids(tuple(each), ()) for each in prompts],
    }
    (folder / "prompts.json").write_text(json.dumps(told))


def equal(folder: Path, answers: Mapping[str, Answer]) -> dict[str, Any]:
    """Everyone answered everything, began almost all answers alike, and said about as much."""
    prompts = json.loads((folder / "prompts.json").read_text())["input_ids"]
    ours: Sequence[Sequence[int]] = answers[US]["token_ids"]
    tokens, alike = {}, {}
    for name, answer in answers.items():
        theirs = answer["token_ids"]
        if len(theirs) != len(prompts):
            raise BenchError(f"{name} gave {len(theirs)} answers to {len(prompts)} prompts")
        tokens[name] = sum(map(len, theirs))
        same = sum(a[:BEGINNING] == b[:BEGINNING] for a, b in zip(ours, theirs, strict=True))
        alike[name] = round(same / len(prompts), 3)
        if alike[name] < SAME:
            raise BenchError(f"{name} begins only {alike[name]:.0%} of its answers as we do")
        if abs(tokens[name] / tokens[US] - 1) > AS_LONG:
            raise BenchError(f"{name} said {tokens[name]} tokens, and we {tokens[US]}")
    return {
        "prompt_tokens": sum(map(len, prompts)),
        "answer_tokens": tokens,
        "begin_alike": alike,
    }


BENCHMARK = Benchmark(
    name="generate",
    size=256,
    peers=(
        Peer("vllm_defaults", None),
        Peer("transformers_bs32", None),
        Peer("transformers_bs1", None, max_size=32),
    ),
    make=make,
    equal=equal,
    figures=("start_s",),
)
