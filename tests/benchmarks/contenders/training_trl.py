"""TRL's SFTTrainer, as it comes and tuned for this machine."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

from contender import compete
from datasets import Dataset
from peft import LoraConfig
from training_loss import LEARNING_RATE, read, validation_loss
from trl import SFTConfig, SFTTrainer

TUNED = {"gradient_checkpointing": False}
"""Rows of one length or nearly so gain nothing by packing, which is several times slower on a CPU."""


def enter(method: str, *, tuned: bool) -> None:
    """Compete with rows that are tokenised already; whatever is not named here is TRL's default."""
    logging.disable()
    folder: Path | None = None

    def work(given: Path) -> SFTTrainer:
        nonlocal folder
        folder = given
        rows = read(folder)
        arguments: dict[str, Any] = TUNED if tuned else {}
        if tuned and method == "lora":
            arguments = {**arguments, "model_init_kwargs": {"dtype": "bfloat16"}}
        config = SFTConfig(
            output_dir=tempfile.mkdtemp(dir="."),
            per_device_train_batch_size=rows["batch_rows"],
            num_train_epochs=1,
            learning_rate=LEARNING_RATE[method],
            lr_scheduler_type="cosine",
            bf16=True,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **arguments,
        )
        adapter = LoraConfig(
            r=16,
            lora_alpha=32,
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
            task_type="CAUSAL_LM",
        )
        trainer = SFTTrainer(
            model=rows["model"],
            args=config,
            train_dataset=Dataset.from_list(rows["train"]),
            peft_config=adapter if method == "lora" else None,
        )
        trainer.train()
        return trainer

    def answer(trainer: SFTTrainer) -> dict[str, Any]:
        assert folder is not None
        loss = validation_loss(trainer.model, folder)
        return {"updates": trainer.state.global_step, "validation_loss": loss}

    compete(work, answer, "torch", "transformers", "trl", "peft")
