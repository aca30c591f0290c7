import json
import math
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from contender import compete

from tunebook_eval.judge_questions import SCORE
from tunebook_inference.generator import ChatRequest, Decoding
from tunebook_inference.vllm_engine import VLLMEngine, import_vllm
from tunebook_model.render import Renderer

import_vllm()
TOLD = json.loads((Path(sys.argv[1]) / "judge.json").read_text())
MODEL = Path(TOLD["model"])
ENGINE = VLLMEngine(MODEL, Renderer.load(MODEL, {}), Decoding(), dtype=TOLD["dtype"])


def work(folder: Path) -> dict[str, Any]:
    requests = [
        ChatRequest(str(number), tuple(messages), 1, temperature=0.0, choices=tuple(TOLD["choices"]))
        for number, messages in enumerate(TOLD["messages"])
    ]
    answers = ENGINE.generate(requests, lambda completion: None)
    scores = []
    for each in answers:
        weights = [math.exp(logprob) for logprob in each.choice_logprobs]
        shares = [weight / sum(weights) for weight in weights]
        scores.append(SCORE.read(shares, list(SCORE.choices.values())))
    return {
        "scores": scores,
        "prompt_tokens": sum(each.prompt_tokens for each in answers),
        "cached_tokens": sum(each.cached_tokens for each in answers),
    }


if __name__ == "__main__":
    ENGINE.generate([ChatRequest("first", ({"role": "user", "content": "Hello."},), 1)], lambda _: None)
    compete(work, lambda made: made, "torch", "transformers", *packages_distributions()["vllm"])
