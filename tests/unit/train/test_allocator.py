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

IN_PIECES = """
import resource
from tunebook_train.allocator import give_back, keep_freed_memory
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
keep_freed_memory()
blocks = [bytearray(1_000_000) for _ in range(100)]
blocks = blocks[::2]
before = resident()
give_back()
print(before - resident())
"""


def faults(how: str) -> int:
    return int(subprocess.check_output([sys.executable, "-c", CODE, how], text=True))


def test_a_large_block_that_is_freed_is_not_cleared_by_the_kernel_again() -> None:
    assert faults("kept") < 1000 < faults("given back")


def test_what_is_free_between_what_is_in_use_is_given_back() -> None:
    assert int(subprocess.check_output([sys.executable, "-c", IN_PIECES], text=True)) > 40_000_000
