"""The training loop of one worker, without Ray."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from contender import compete
from training_loss import LEARNING_RATE, read, validation_loss

from tunebook_data.tokens import TokenTable
from tunebook_model.precision import compute_dtype
from tunebook_spec.method import AnyMethod, FullMethod, LoraMethod
from tunebook_train.checkpoint import Training
from tunebook_train.loop import Batches, Worker, run_steps
from tunebook_train.optimizer import make_optimizer, make_schedule
from tunebook_train.pack import Step
from tunebook_train.step import SupervisedLoss, load_model
from tunebook_train.throughput import StepCost, gemm_rate

CPU = torch.device("cpu")
ALONE = Worker(0, 1, CPU)
AS_PEERS = {"lr_scheduler_type": "cosine", "warmup_ratio": 0.0}


def method_of(kind: str, **changes: Any) -> AnyMethod:
    common = {"kind": kind, "learning_rate": LEARNING_RATE[kind], "epochs": 1, **AS_PEERS, **changes}
    if kind == "full":
        return FullMethod.model_validate(common)
    targets = ("q_proj", "k_proj", "v_proj", "o_proj")
    return LoraMethod.model_validate({**common, "r": 16, "target_modules": targets})


def enter(kind: str, **changes: Any) -> None:
    """Compete; `changes` are of the method's fields."""
    method = method_of(kind, **changes)
    told: dict[str, Any] = {}

    def work(folder: Path) -> SupervisedLoss:
        told["folder"] = folder
        train = TokenTable.open(folder / "train.tokens.arrow")
        given = read(folder)
        batch_rows = given["batch_rows"]
        rows = range(0, len(train), batch_rows)
        steps = [Step(0, tuple(range(start, start + batch_rows))) for start in rows]
        dtype = getattr(torch, compute_dtype().dtype)
        loss = load_model(Path(given["model"]), dtype, CPU, method)
        optimizer = make_optimizer(loss, method)
        training = Training(loss, optimizer, make_schedule(optimizer, method, len(steps)), digest="")
        batches = Batches(train, TokenTable.open(folder / "none.tokens.arrow"), ALONE, method.max_pack_tokens)
        told["started"] = time.perf_counter()
        run_steps(training, steps, batches, method, seed=0, on_step=lambda: None)
        told["seconds"] = time.perf_counter() - told["started"]
        told["updates"], told["table"] = training.step, train
        told["computed"] = sum(entry.get("computed_tokens", 0) for entry in training.metrics)
        return loss

    def answer(loss: SupervisedLoss) -> dict[str, Any]:
        loss.model.set_attn_implementation("sdpa")
        made = {"updates": told["updates"], "validation_loss": validation_loss(loss.model, told["folder"])}
        before = load_model(Path(read(told["folder"])["model"]), loss.compute_dtype, CPU, method)
        before.model.set_attn_implementation("sdpa")
        made["validation_loss_before"] = validation_loss(before.model, told["folder"])
        table: TokenTable = told["table"]
        operations = StepCost.of(loss).of_rows(table, range(len(table)), told["computed"])
        return {**made, "mfu": operations / told["seconds"] / gemm_rate(loss.compute_dtype, CPU)}

    compete(work, answer, "torch", "transformers", "peft")
