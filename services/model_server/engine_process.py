"""A vLLM server that ends with whoever started it, of vLLM's own arguments."""

from __future__ import annotations

import runpy

from tunebook_run.parent import end_with_parent

if __name__ == "__main__":
    end_with_parent(group=True)  # vLLM's engine is a process of its own
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)
