from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from tunebook_data.tokens import TokenTable, write_tokens
from tunebook_model.render import Rendered
from tunebook_spec.method import FullMethod

CPU = torch.device("cpu")
FULL = FullMethod(kind="full")

LIMIT = 512
"""Of the tiny Llama, in tokens."""
EDGES = {
    # Tokens, and the first supervised one.
    "a chat": (17, 9),
    "a token": (1, 0),
    "an answer of a token": (40, 39),
    "two tokens": (2, 1),
    "at the limit": (LIMIT, 400),
    "supervised from its first token": (63, 0),
    "short": (5, 2),
    "a chat like the first": (17, 4),
}
"""Rows on which steps are held against others."""

PAIRS = {
    # Tokens of the prompt, of the preferred answer, and of the other.
    "a chat": (9, 8, 12),
    "answers of a token": (20, 1, 1),
    "a prompt of a token": (1, 5, 3),
    "at the limit": (LIMIT - 112, 112, 60),
    "a token against many": (30, 1, 90),
    "many against a token": (30, 90, 1),
    "short": (2, 1, 2),
    "a chat like the first": (9, 8, 12),
}
"""Pairs on which steps are held against others."""

MakeTable = Callable[[str, list[int]], TokenTable]


def write_pairs(path: Path, shapes: Iterable[tuple[int, int, int]] = PAIRS.values()) -> TokenTable:
    """Random pairs, by the tokens of prompt and answers, as `prepare` leaves them."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for number, (asked, *answers) in enumerate(shapes):
        prompt = torch.randint(5, 250, (asked,), generator=generator)
        for end, length in zip(("", "-rejected"), answers, strict=True):
            ids = torch.cat([prompt, torch.randint(5, 250, (length,), generator=generator)]).numpy()
            rows.append((f"pair-{number}{end}", Rendered(ids, np.arange(len(ids)) >= asked)))
    write_tokens(path, rows)
    return TokenTable.open(path)


def plain_model(folder: Path) -> Any:
    """A model as stock transformers computes it, in float32."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def reference_loss(model: Any, table: TokenTable) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Each row alone through the plain model, with every logit there is; and the gradients."""
    total = torch.zeros(())
    for row in range(len(table)):
        ids = torch.tensor(table.input_ids(row).astype("int64"))
        logits = model(ids[None]).logits[0, :-1]
        supervised = torch.tensor(table.loss_mask(row))[1:]
        wanted = F.one_hot(ids[1:], logits.shape[1]).float()
        if (soft := table.soft_targets(row)) is not None:
            places = torch.zeros(len(soft.ids_NK), logits.shape[1])
            places.scatter_(1, torch.tensor(soft.ids_NK).long(), torch.tensor(soft.probabilities_NK))
            wanted[supervised] = places
        loss = F.cross_entropy(logits[supervised], wanted[supervised], reduction="sum")
        total = total + table.weight(row) * loss
    total.backward()
    return total.detach(), gradients_of(model)


def gradients_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_near(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], what: str = "", tolerance: float = 1e-5
) -> None:
    """By the norm of each tensor's difference: single numbers near zero differ by the order of a sum."""
    assert found.keys() == expected.keys(), what
    for name, tensor in found.items():
        assert (tensor - expected[name]).norm() <= tolerance * expected[name].norm(), (what, name)
