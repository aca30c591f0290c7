"""Plain transformers, in batches of equally long prompts as far as there are."""

import json
from pathlib import Path
from typing import Any

import torch
from contender import compete
from transformers import AutoModelForCausalLM


def enter(batch_size: int) -> None:
    def work(folder: Path) -> dict[str, Any]:
        told = json.loads((folder / "prompts.json").read_text())
        stops, ids = told["stop_token_ids"], told["input_ids"]
        model = AutoModelForCausalLM.from_pretrained(told["model"], dtype=getattr(torch, told["dtype"]))
        order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
        answers: dict[int, list[int]] = {}
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            longest = max(len(ids[number]) for number in batch)
            pads = [longest - len(ids[number]) for number in batch]
            padded = [[0] * pad + ids[number] for pad, number in zip(pads, batch, strict=True)]
            mask = [[0] * pad + [1] * (longest - pad) for pad in pads]
            made = model.generate(
                input_ids=torch.tensor(padded),
                attention_mask=torch.tensor(mask),
                max_new_tokens=told["max_tokens"],
                do_sample=False,
                eos_token_id=stops,
                pad_token_id=0,
            )
            for number, spoken in zip(batch, made[:, longest:].tolist(), strict=True):
                end = next((at + 1 for at, token in enumerate(spoken) if token in stops), len(spoken))
                answers[number] = spoken[:end]
        return {"token_ids": [answers[number] for number in range(len(ids))]}

    compete(work, lambda made: made, "torch", "transformers")
