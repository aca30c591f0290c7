"""Rows for a provider to train on, as the stage `prepare` leaves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.fine_tuning_endpoint import FineTuning
from tests.hosted_training import Training
from tunebook_data.rows import Row, write_rows
from tunebook_data.tokens import write_tokens
from tunebook_model.conversation import Message
from tunebook_model.render import Rendered

TOKENS = 7
"""Of each row."""


def row(number: int, answer: str = "Yes.", **fields: Any) -> Row:
    messages: list[Message] = [
        {"role": "user", "content": f"Is {number} a number?"},
        {"role": "assistant", "content": answer},
    ]
    known = {"messages": tuple(messages), "task": "t", "group": str(number), "source": "rows.jsonl"}
    return Row(**{"id": f"r{number}", "line": number + 1, **known, **fields})


def prepare(stage: Training, train: list[Row], validation: list[Row]) -> None:
    """What the stage reads."""
    stage.data_dir.mkdir(parents=True)
    rendered = Rendered(np.arange(TOKENS, dtype=np.int32), np.ones(TOKENS, np.bool_))
    for side, rows in (("train", train), ("validation", validation)):
        write_rows(stage.data_dir / f"{side}.jsonl", rows)
        ids = [each.id for each in rows] + [f"{each.id}-rejected" for each in rows if each.rejected]
        write_tokens(stage.data_dir / f"{side}.tokens.arrow", [(name, rendered) for name in ids])


def training(folder: Path, service: FineTuning, **fields: Any) -> Training:
    """With twelve rows to train on and two for validation."""
    made = Training(folder, service.base_url, **fields)
    prepare(made, [row(number) for number in range(12)], [row(number) for number in (20, 21)])
    return made
