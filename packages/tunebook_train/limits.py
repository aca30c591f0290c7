"""What to change where this machine's memory or disk does not suffice."""

from __future__ import annotations

import tempfile

import torch

from tunebook_run.store import causes, is_disk_full
from tunebook_spec.method import FullMethod, QloraMethod, TrainingMethod


def way_out(error: BaseException, method: TrainingMethod, storage_url: str) -> str | None:
    """What a user can do about it, in one line; None for an error that is no matter of limits."""
    if is_disk_full(error):
        return (
            f"no space left under {storage_url.split('?')[0]} or {tempfile.gettempdir()}: free some and run"
            " again, training goes on from its newest checkpoint"
        )
    if any(_is_memory(each) for each in causes(error)):
        is_full = isinstance(method, FullMethod)
        is_whole = method.parallel_strategy == "ddp" and not isinstance(method, QloraMethod)
        shared = ", share the model out over workers (method.parallel_strategy: fsdp)" if is_whole else ""
        smaller = "train an adapter (method.kind: lora, qlora)" if is_full else "take a smaller base_model"
        return (
            f"out of memory: lower method.max_pack_tokens ({method.max_pack_tokens}), or"
            f" data.checks.max_tokens where one row is longer than that{shared}, or {smaller}"
            f" ({str(error).strip().splitlines()[0]})"
        )
    return None


def _is_memory(error: BaseException) -> bool:
    # A failed allocation on the CPU has no type of its own.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
