from __future__ import annotations

import pytest
import torch

from tunebook_model.precision import Precision, common, compute_dtype, cpu_precision


@pytest.mark.parametrize(
    ("capabilities", "dtype", "reason"),
    [
        ({"amx_bf16": True}, "bfloat16", "amx_bf16"),
        ({"avx512_bf16": True, "amx_bf16": False}, "bfloat16", "avx512_bf16"),
        ({"avx2": True, "avx512_bf16": False}, "float32", "neither AMX nor AVX512_BF16"),
        ({}, "float32", "neither AMX nor AVX512_BF16"),
    ],
    ids=["amx", "avx512", "avx2", "not x86"],
)
def test_bf16_only_where_the_cpu_computes_in_it(
    capabilities: dict[str, bool], dtype: str, reason: str
) -> None:
    precision = cpu_precision(capabilities)
    assert precision.dtype == dtype
    assert reason in precision.reason


def test_workers_compute_in_bf16_only_where_all_do() -> None:
    gpu, other = Precision("bfloat16", "bfloat16, as a GPU"), Precision("bfloat16", "bfloat16, as another")
    old = Precision("float32", "float32, as an old CPU")
    assert common([gpu, other]) == gpu
    assert common([gpu, old]) == common([old, gpu]) == old


def test_this_machine_gets_an_answer_that_torch_knows() -> None:
    assert isinstance(getattr(torch, compute_dtype().dtype), torch.dtype)
