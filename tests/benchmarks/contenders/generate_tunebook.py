import json
import time
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from contender import compete

from tunebook_inference.generator import ChatRequest, Decoding
from tunebook_inference.vllm_engine import VLLMEngine, import_vllm
from tunebook_model.render import Renderer

import_vllm()


def work(folder: Path) -> dict[str, Any]:
    started = time.perf_counter()
    told = json.loads((folder / "prompts.json").read_text())
    model = Path(told["model"])
    engine = VLLMEngine(model, Renderer.load(model, {}), Decoding(), dtype=told["dtype"])
    engine.next_tokens([told["input_ids"][0]])
    start_s = time.perf_counter() - started
    requests = [
        ChatRequest(str(number), tuple(messages), told["max_tokens"])
        for number, messages in enumerate(told["messages"])
    ]
    answers = engine.generate(requests, lambda completion: None)
    return {"token_ids": [each.token_ids for each in answers], "start_s": start_s}


if __name__ == "__main__":
    compete(work, lambda made: made, "torch", "transformers", *packages_distributions()["vllm"])
