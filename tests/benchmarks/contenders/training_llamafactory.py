"""LLaMA-Factory, fed rows that are tokenised already; whatever is not named here is its default."""

from __future__ import annotations

import importlib.machinery
import logging
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

# Their kernels are those of GPUs, and the rows are text.
sys.modules["torchvision"] = None  # type: ignore[assignment]
sys.modules["torchaudio"] = types.ModuleType("torchaudio")
sys.modules["torchaudio"].__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)

from contender import compete  # noqa: E402
from datasets import Dataset, DatasetDict  # noqa: E402
from llamafactory.train.tuner import run_exp  # noqa: E402
from training_loss import LEARNING_RATE, read, validation_loss  # noqa: E402
from transformers import TrainerCallback, TrainerState  # noqa: E402


class Trained(Exception):
    """Ends it after the last update: nobody's weights are written."""

    def __init__(self, model: Any, updates: int) -> None:
        self.model, self.updates = model, updates


class Stop(TrainerCallback):  # type: ignore[misc]
    def on_train_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        raise Trained(kwargs["model"], state.global_step)


def enter(method: str) -> None:
    logging.disable()
    folder: Path | None = None

    def work(given: Path) -> Trained:
        nonlocal folder
        folder = given
        rows = read(folder)
        made = tempfile.mkdtemp(dir=".")
        train = [{**row, "attention_mask": [1] * len(row["input_ids"])} for row in rows["train"]]
        DatasetDict({"train": Dataset.from_list(train)}).save_to_disk(f"{made}/rows")
        adapter = {"lora_rank": 16, "lora_alpha": 32, "lora_target": "q_proj,k_proj,v_proj,o_proj"}
        arguments = {
            "stage": "sft",
            "do_train": True,
            "model_name_or_path": rows["model"],
            "finetuning_type": method,
            "template": "empty",
            "dataset": "unread",
            "tokenized_path": f"{made}/rows",
            "output_dir": f"{made}/out",
            "per_device_train_batch_size": rows["batch_rows"],
            "num_train_epochs": 1,
            "learning_rate": LEARNING_RATE[method],
            "lr_scheduler_type": "cosine",
            "bf16": True,
            "use_cpu": True,
            "disable_gradient_checkpointing": True,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            **(adapter if method == "lora" else {}),
        }
        try:
            run_exp(arguments, [Stop()])
        except Trained as trained:
            return trained
        raise AssertionError("it did not train")

    def answer(trained: Trained) -> dict[str, Any]:
        assert folder is not None
        return {"updates": trained.updates, "validation_loss": validation_loss(trained.model, folder)}

    compete(work, answer, "torch", "transformers", "peft", "llamafactory")
