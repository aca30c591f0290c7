from __future__ import annotations

from tunebook_inference.vllm_engine import engine_environment


def test_where_a_host_has_a_gpu_its_engine_compiles_whatever_this_machine_has() -> None:
    assert "TORCHDYNAMO_DISABLE" not in engine_environment(on_gpu=True)
    assert engine_environment(on_gpu=False)["TORCHDYNAMO_DISABLE"] == "1"
