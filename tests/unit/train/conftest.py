from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.train.tables import CPU, FULL, MakeTable
from tunebook_data.tokens import TokenTable, write_tokens
from tunebook_model.render import Rendered, SoftTargets
from tunebook_train.step import SupervisedLoss, load_model


@pytest.fixture
def loss_model(tiny_llama: Path) -> SupervisedLoss:
    return load_model(tiny_llama, torch.float32, CPU, FULL)


def soft_targets(count: int, generator: torch.Generator) -> SoftTargets:
    """Four different tokens for each place, at random probabilities."""
    ids = torch.stack([torch.randperm(250, generator=generator)[:4] for _ in range(count)])
    probabilities = torch.rand(count, 4, generator=generator).softmax(1)
    return SoftTargets(ids.int().numpy(), probabilities.numpy())


@pytest.fixture
def make_table(tmp_path: Path) -> MakeTable:
    """Random rows of the given lengths, their second halves supervised, every third by soft targets that
    count twice and a half.
    """

    def make(name: str, lengths: list[int]) -> TokenTable:
        generator = torch.Generator().manual_seed(len(lengths))
        rows = []
        for number, length in enumerate(lengths):
            ids = torch.randint(5, 250, (length,), generator=generator).tolist()
            mask = [place >= length // 2 and place > 0 for place in range(length)]
            soft = soft_targets(sum(mask), generator) if number % 3 == 2 else None
            row = Rendered(np.array(ids), np.array(mask), soft, 2.5 if soft else 1.0)
            rows.append((f"{name}-{number}", row))
        path = tmp_path / f"{name}.tokens.arrow"
        write_tokens(path, rows)
        return TokenTable.open(path)

    return make
