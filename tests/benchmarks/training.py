"""What the training benchmarks share: the embedded model, chats of the medical scenario, one epoch.

Everyone is fed the same token ids and labels, as many rows an update, at the same peak rate. What is timed is
loading the model and every update. Then everyone's validation loss is computed alike, by plain transformers.
Ours is the loop that a worker of Ray Train runs; what Ray adds to a run is no part of it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.harness import US, Answer, BenchError, Benchmark, Peer
from tunebook_data.datasets.medical_glossary import rows as glossary_rows
from tunebook_data.tokens import write_tokens
from tunebook_model import builtin
from tunebook_model.conversation import Message
from tunebook_model.render import Rendered, Renderer
from tunebook_run.settings import Settings

SYSTEM = "Expand clinical abbreviations."
VALIDATION_ROWS = 32
BATCH_ROWS = 8
IGNORED = -100
"""The label of a token that is not supervised, as transformers has it."""
WORSE = 1.02
"""By this factor our validation loss may exceed a peer's: rows come in another order."""


def make(folder: Path, size: int, batch_rows: int = BATCH_ROWS) -> None:
    """`rows.json` for peers, and the same rows as our token tables."""
    assets = Settings.read().assets_dir
    model = builtin.require(assets)
    renderer = Renderer.load(model, {})
    pool = glossary_rows("glossary", assets_dir=assets, rows=size + VALIDATION_ROWS)
    system: Message = {"role": "system", "content": SYSTEM}
    rendered = [renderer.render([system, *row.messages]) for row in pool]
    sides = {"train": rendered[:size], "validation": rendered[size:]}
    for side, each in sides.items():
        write_tokens(folder / f"{side}.tokens.arrow", ((f"row-{n}", row) for n, row in enumerate(each)))
    write_tokens(folder / "none.tokens.arrow", ())
    told: dict[str, Any] = {
        side: [{"input_ids": row.input_ids.tolist(), "labels": _labels(row)} for row in each]
        for side, each in sides.items()
    }
    told |= {"model": str(model), "batch_rows": batch_rows}
    (folder / "rows.json").write_text(json.dumps(told))


def _labels(row: Rendered) -> list[int]:
    labels: list[int] = np.where(row.loss_mask, row.input_ids, IGNORED).tolist()
    return labels


def equal(folder: Path, answers: Mapping[str, Answer]) -> dict[str, Any]:
    """Everyone took as many updates on as many supervised tokens; nobody's model is better than ours."""
    told = json.loads((folder / "rows.json").read_text())
    rows, updates = told["train"], len(told["train"]) // told["batch_rows"]
    supervised = sum(label != IGNORED for row in rows for label in row["labels"])
    for name, answer in answers.items():
        if answer["updates"] != updates:
            raise BenchError(f"{name} took {answer['updates']} updates, not {updates}")
        if answers[US]["validation_loss"] > WORSE * answer["validation_loss"]:
            raise BenchError(f"validation loss: ours {answers[US]}, {name}: {answer}")
    return {
        "updates": updates,
        "tokens": sum(len(row["input_ids"]) for row in rows),
        "supervised_tokens": supervised,
        "validation_loss": {name: round(answer["validation_loss"], 4) for name, answer in answers.items()},
        "validation_loss_before": round(answers[US]["validation_loss_before"], 4),
    }


LLAMA_FACTORY = ("llamafactory==0.9.5", "torch==2.13.0", "torchvision==0.28.0", "torchaudio==2.11.0")


def benchmark(name: str, *, size: int = 96, batch_rows: int = BATCH_ROWS) -> Benchmark:
    """TRL lives in our own environment, so that both have one torch; that of LLaMA-Factory is the same."""
    return Benchmark(
        name=name,
        size=size,
        peers=(Peer("trl_tuned", None), Peer("trl_default", None), Peer("llamafactory", LLAMA_FACTORY)),
        make=functools.partial(make, batch_rows=batch_rows),
        equal=equal,
        figures=("mfu",),
        weighs_memory=True,
    )
