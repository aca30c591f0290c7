"""The memory of LoRA where an update is one batch of about 4096 tokens: the loop of a worker against others.

What tells is `peak_rss_ratio`: the largest resident set of our process by that of a peer's.
"""

from __future__ import annotations

from tests.benchmarks.training import benchmark

BENCHMARK = benchmark("train_memory", size=64, batch_rows=32)
