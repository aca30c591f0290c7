from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from tests.unit.train.tables import CPU, FULL
from tunebook_train.norms import use_fast_norms
from tunebook_train.step import load_model


def norms(dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    """That of transformers, and the same made fast."""
    pair = LlamaRMSNorm(24, eps=1e-5).to(dtype), LlamaRMSNorm(24, eps=1e-5).to(dtype)
    weight = 1 + torch.randn(24, generator=torch.Generator().manual_seed(0)) / 4
    for each in pair:
        each.weight.data = weight.to(dtype)
    assert use_fast_norms(pair[1]) == 1
    return pair


@pytest.mark.parametrize(
    ("of_weight", "of_input", "tolerance"),
    [
        (torch.float32, torch.float32, 1e-6),
        (torch.bfloat16, torch.bfloat16, 5e-3),
        (torch.float32, torch.bfloat16, 5e-3),
    ],
)
def test_a_fast_norm_says_what_that_of_transformers_says_and_so_do_its_gradients(
    of_weight: torch.dtype, of_input: torch.dtype, tolerance: float
) -> None:
    generator = torch.Generator().manual_seed(1)
    rows, grad = (torch.randn(2, 7, 24, generator=generator) for _ in range(2))
    found: list[list[Tensor]] = []
    for norm in norms(of_weight):
        x = rows.to(of_input).requires_grad_()
        out = norm(x)
        out.backward(grad.to(out.dtype))
        assert x.grad is not None
        found.append([out.detach(), x.grad, norm.weight.grad])
    for peer, own in zip(*found, strict=True):
        assert own.dtype == peer.dtype
        assert (own - peer).float().norm() <= tolerance * peer.float().norm()


def test_frozen_weights_get_no_gradient() -> None:
    _, norm = norms(torch.float32)
    norm.requires_grad_(False)
    x = torch.randn(3, 24, requires_grad=True)
    norm(x).sum().backward()
    assert x.grad is not None
    assert norm.weight.grad is None


class PlusOne(LlamaRMSNorm):
    """As Gemma's."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        kept: Tensor = super().forward(hidden_states)
        return kept + kept / self.weight


def test_a_norm_that_says_something_else_is_left_alone() -> None:
    odd = PlusOne(24)
    before = odd(torch.ones(1, 24))
    assert use_fast_norms(nn.ModuleList([odd, nn.LayerNorm(24)])) == 0
    torch.testing.assert_close(odd(torch.ones(1, 24)), before)


def test_a_model_that_is_trained_has_them_all(tiny_llama: Path) -> None:
    model = load_model(tiny_llama, torch.float32, CPU, FULL).model
    fast = [m for m in model.modules() if isinstance(m, LlamaRMSNorm) and "forward" in vars(m)]
    assert len(fast) == 2 * model.config.num_hidden_layers + 1
