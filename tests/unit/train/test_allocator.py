from __future__ import annotations

import subprocess
import sys

CODE = """
import resource, sys
from tunebook_train.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
bytearray(50_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    bytearray(50_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    return int(subprocess.check_output([sys.executable, "-c", CODE, how], text=True))


def test_a_large_block_that_is_freed_is_not_cleared_by_the_kernel_again() -> None:
    assert faults("kept") < 1000 < faults("given back")
