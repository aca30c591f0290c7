"""All weights, in float32 with bfloat16 products: the loop of a worker against TRL."""

from __future__ import annotations

from tests.benchmarks.training import benchmark

BENCHMARK = benchmark("train_full")
