"""LoRA of rank 16 on query, key, value and output: the loop of a worker against TRL."""

from __future__ import annotations

from tests.benchmarks.training import benchmark

BENCHMARK = benchmark("train_lora")
