"""A vLLM server that ends with whoever started it: vLLM's own arguments, stdin held open by the parent."""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):  # a buffered reader could not be left alone at exit
        pass
    os.killpg(0, signal.SIGKILL)  # vLLM's engine is a process of its own


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)
