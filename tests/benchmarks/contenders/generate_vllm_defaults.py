import json
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from contender import compete
from vllm import LLM, SamplingParams


def work(folder: Path) -> dict[str, Any]:
    told = json.loads((folder / "prompts.json").read_text())
    params = SamplingParams(
        temperature=0, max_tokens=told["max_tokens"], stop_token_ids=told["stop_token_ids"]
    )
    # Memory for keys and values as we take: the default wants nearly all of the machine's to be free.
    llm = LLM(told["model"], dtype=told["dtype"], kv_cache_memory_bytes=2 * 2**30, gpu_memory_utilization=0.4)
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in told["input_ids"]], params)
    return {"token_ids": [list(each.outputs[0].token_ids) for each in outputs]}


if __name__ == "__main__":
    compete(work, lambda made: made, "torch", "transformers", *packages_distributions()["vllm"])
