"""The real engine, in a child process as in a run: it never gives its memory back."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CHILD = """
import json, sys
from dataclasses import asdict, replace
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM
from tunebook_inference.generator import ChatRequest, Decoding
from tunebook_inference.vllm_engine import VLLMEngine
from tunebook_model.render import Renderer

folder = Path(sys.argv[1])
renderer = Renderer.load(folder, {})
asked = [("a", "What colour is the sky?", 8), ("b", "blue", 4), ("long", "blue " * 600, 4), ("c", "is", 400)]
requests = [ChatRequest(id, ({"role": "user", "content": q},), n) for id, q, n in asked]

model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
greedy = {}
for request in requests[:2]:
    ids = renderer.prompt_ids(request.messages)
    with torch.no_grad():
        out = model.generate(
            torch.tensor([ids]), do_sample=False, max_new_tokens=request.max_tokens,
            eos_token_id=sorted(renderer.end_of_turn),
        )
    greedy[request.id] = renderer.tokenizer.decode(out[0, len(ids):], skip_special_tokens=True)

order = []
engine = VLLMEngine(folder, renderer, Decoding(), "float32")
nothing = engine.generate([], order.append)
assert nothing == [] and "vllm" not in sys.modules
completions = engine.generate(requests, lambda completion: order.append(completion.id))
asked = {"new": "blue " * 200, "known": "blue " * 200, "begins alike": "blue " * 90 + "red " * 90}
alone = [
    engine.generate([ChatRequest(id, ({"role": "user", "content": text},), 4)], lambda _: None)[0]
    for id, text in asked.items()
]
many = [ChatRequest(str(n), ({"role": "user", "content": f"{n} " + "blue " * 300},), 4) for n in range(40)]
engine.decoding = Decoding(temperature=1.0, seed=3)
first, again = ([each.token_ids for each in engine.generate(many, lambda _: None)] for _ in range(2))
engine.decoding = Decoding(temperature=1.0, seed=4)
other = [each.token_ids for each in engine.generate(many, lambda _: None)]
engine.decoding = Decoding()
digits = tuple("0123456789")
weighed = [replace(each, id=f"{each.id}?", choices=digits) for each in requests[:2]]
chosen = engine.generate([weighed[0], requests[1], weighed[1]], lambda _: None)
plain = {}
for request in weighed:
    ids = renderer.prompt_ids(request.messages)
    with torch.no_grad():
        logprobs = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    plain[request.id] = logprobs[renderer.tokenizer.convert_tokens_to_ids(list(digits))].tolist()
print(json.dumps({
    "plain": plain, "chosen": [asdict(each) for each in chosen],
    "alone": [asdict(each) for each in alone],
    "greedy": greedy, "order": order, "answers": [asdict(each) for each in completions],
    "sampled": {"first": first, "again": again, "other": other},
}))
"""


@pytest.fixture(scope="module")
def run(tiny_llama: Path) -> dict[str, Any]:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("needs the extra cpu or gpu")
    done = subprocess.run([sys.executable, "-c", CHILD, str(tiny_llama)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()  # nothing but the result reaches stdout
    result: dict[str, Any] = json.loads(line)
    return result


def test_greedy_answers_are_those_of_the_plain_model(run: dict[str, Any]) -> None:
    assert {each["id"]: each["text"] for each in run["answers"][:2]} == run["greedy"]


def test_answers_come_in_the_order_asked_and_are_delivered_as_they_finish(run: dict[str, Any]) -> None:
    assert [each["id"] for each in run["answers"]] == ["a", "b", "long", "c"]
    assert sorted(run["order"]) == ["a", "b", "c", "long"]
    assert run["order"].index("b") < run["order"].index("a") < run["order"].index("c")


def test_a_prompt_beyond_the_context_is_an_error_row(run: dict[str, Any]) -> None:
    long = run["answers"][2]
    assert long["finish_reason"] == "error"
    assert "the model reads 512" in long["error"]
    assert run["answers"][1]["finish_reason"] in ("stop", "length")


def test_what_was_read_for_an_earlier_prompt_is_told(run: dict[str, Any]) -> None:
    new, known, alike = run["alone"]
    assert (new["text"], new["prompt_tokens"]) == (known["text"], known["prompt_tokens"])
    assert new["cached_tokens"] == 0
    assert 128 <= known["cached_tokens"] < known["prompt_tokens"]
    assert 64 <= alike["cached_tokens"] < 128, "less than a block of vLLM's own choice"


def test_a_seed_decides_what_is_sampled_of_more_prompts_than_one_batch_holds(run: dict[str, Any]) -> None:
    sampled = run["sampled"]
    assert sampled["first"] == sampled["again"]
    assert sampled["first"] != sampled["other"]


def test_choices_are_weighed_as_by_the_plain_model_beside_answers_of_any_length(run: dict[str, Any]) -> None:
    first, answered, second = run["chosen"]
    for each in (first, second):
        assert each["choice_logprobs"] == pytest.approx(run["plain"][each["id"]], abs=1e-3)
        assert (each["finish_reason"], each["completion_tokens"]) == ("stop", 1)
    assert first["choice_logprobs"] != second["choice_logprobs"]
    assert (answered["text"], answered["choice_logprobs"]) == (run["greedy"]["b"], [])
