from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.unit.train.tables import CPU, MakeTable
from tunebook_data.tokens import TokenTable, write_tokens
from tunebook_model.render import Rendered
from tunebook_train.step import SupervisedLoss, load_model


@pytest.fixture
def loss_model(tiny_llama: Path) -> SupervisedLoss:
    return load_model(tiny_llama, torch.float32, CPU)


@pytest.fixture
def make_table(tmp_path: Path) -> MakeTable:
    """A table of random rows with the given lengths; the second half of each is supervised."""

    def make(name: str, lengths: list[int]) -> TokenTable:
        generator = torch.Generator().manual_seed(len(lengths))
        rows = []
        for number, length in enumerate(lengths):
            ids = torch.randint(5, 250, (length,), generator=generator).tolist()
            mask = [place >= length // 2 and place > 0 for place in range(length)]
            rows.append((f"{name}-{number}", Rendered(ids, mask)))
        path = tmp_path / f"{name}.tokens.arrow"
        write_tokens(path, rows)
        return TokenTable.open(path)

    return make
