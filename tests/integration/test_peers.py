"""Fed the same ids and labels, this project's step has the loss and gradients of its peers, in float32.

The peers are run as their users run them, by a real `train()` of one step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from tests.unit.train.tables import CPU, EDGES, FULL, PAIRS, write_pairs
from tests.unit.train.test_adapter import LORA, QLORA, adapted, saved
from tunebook_data.tokens import TokenTable, write_tokens
from tunebook_model.render import Rendered
from tunebook_spec.method import DpoObjective
from tunebook_train.loop import Batches, Worker, accumulate, reference_log_probabilities
from tunebook_train.pack import supervised_weight
from tunebook_train.quantise import nf4
from tunebook_train.step import SupervisedLoss, load_model

PEERS = [
    ("transformers", "full"),
    ("transformers", "lora"),
    ("transformers", "qlora"),
    ("trl", "full"),
    ("trl", "lora"),
    # TRL casts an adapter of a quantised base to bfloat16, so that its QLoRA has no float32 gradients.
]
ALONE = Worker(world_rank=0, world_size=1, device=CPU)


class Step(NamedTuple):
    """One step over rows, before the optimizer."""

    loss: float
    gradients: dict[str, torch.Tensor]


class Gradients(TrainerCallback):
    """Keeps what a trainer would hand to its optimizer."""

    def __init__(self) -> None:
        self.kept: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, *_: Any, model: torch.nn.Module, **__: Any) -> None:
        self.kept = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@dataclass(frozen=True)
class Bench:
    """The base, the rows, and for each method a model of ours, with an adapter that says something."""

    base: Path
    folder: Path
    table: TokenTable
    models: dict[str, SupervisedLoss]

    def ours(self, kind: str, rows: Sequence[int], max_pack_tokens: int) -> Step:
        model = self.models[kind]
        model.zero_grad()
        batches = Batches(self.table, self.table, ALONE, max_pack_tokens)
        packs = batches.packs(self.table, rows)
        weight = supervised_weight(self.table, rows)
        loss = accumulate(model, packs, 1 / weight, batches).sum() / weight
        grads = {n: p.grad.clone() for n, p in model.model.named_parameters() if p.grad is not None}
        return Step(float(loss), grads)

    def peer(self, trainer: str, kind: str, rows: Sequence[int], batch_size: int) -> Step:
        """What a step of `len(rows) / batch_size` micro-batches comes to."""
        options = {"quantization_config": nf4(torch.float32), "device_map": "cpu"} if kind == "qlora" else {}
        model = AutoModelForCausalLM.from_pretrained(self.base, dtype=torch.float32, **options)
        if kind != "full":
            adapter = self.folder / kind / "adapter"
            model = PeftModel.from_pretrained(model, adapter, is_trainable=True)
        arguments = {
            "output_dir": str(self.folder / "peer"),
            "per_device_train_batch_size": batch_size,
            "gradient_accumulation_steps": len(rows) // batch_size,
            "max_steps": 1,
            "max_grad_norm": 0.0,
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
        }
        gradients = Gradients()
        tokenizer = AutoTokenizer.from_pretrained(self.base)
        make = partial(
            TRAINERS[trainer], model=model, train_dataset=self.dataset(rows), callbacks=[gradients]
        )
        if trainer == "trl":
            result = make(args=SFTConfig(**arguments, max_length=None), processing_class=tokenizer).train()
        else:
            collator = DataCollatorForTokenClassification(tokenizer)
            result = make(args=TrainingArguments(**arguments), data_collator=collator).train()
        return Step(result.training_loss, gradients.kept)

    def dataset(self, rows: Sequence[int]) -> Dataset:
        ids = [self.table.input_ids(row).tolist() for row in rows]
        masks = [self.table.loss_mask(row).tolist() for row in rows]
        labels = [
            [each if wanted else -100 for each, wanted in zip(*row, strict=True)]
            for row in zip(ids, masks, strict=True)
        ]
        return Dataset.from_dict({"input_ids": ids, "labels": labels})


TRAINERS = {"transformers": Trainer, "trl": SFTTrainer}


@pytest.fixture(scope="module")
def bench(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("peers")
    generator = torch.Generator().manual_seed(0)
    rows = []
    for name, (length, first) in EDGES.items():
        ids = torch.randint(5, 250, (length,), generator=generator).tolist()
        rows.append((name, Rendered(ids, [place >= first for place in range(length)])))
    write_tokens(folder / "train.tokens.arrow", rows)
    models = {"full": load_model(tiny_llama, torch.float32, CPU, FULL)}
    for kind, method in (("lora", LORA), ("qlora", QLORA)):
        models[kind] = adapted(tiny_llama, method)
        saved(models[kind], folder / kind)
    return Bench(tiny_llama, folder, TokenTable.open(folder / "train.tokens.arrow"), models)


def assert_same(ours: Step, peer: Step) -> None:
    assert ours.loss == pytest.approx(peer.loss, rel=1e-4)
    assert ours.gradients.keys() == peer.gradients.keys()
    # What is zero but for rounding (of a query that sees one key alone) is compared with all gradients.
    whole = torch.stack([each.norm() for each in peer.gradients.values()]).norm()
    assert whole > 0
    for name, gradient in ours.gradients.items():
        expected = peer.gradients[name]
        assert (gradient - expected).norm() <= 1e-3 * expected.norm() + 1e-7 * whole, name


@pytest.mark.parametrize(("batch_size", "max_pack_tokens"), [(8, 1024), (1, 8)], ids=["8 x 1", "1 x 8"])
@pytest.mark.parametrize(("trainer", "kind"), PEERS)
def test_a_step_has_the_loss_and_gradients_of_the_peer(
    bench: Bench, trainer: str, kind: str, batch_size: int, max_pack_tokens: int
) -> None:
    rows = range(len(EDGES))
    assert_same(bench.ours(kind, rows, max_pack_tokens), bench.peer(trainer, kind, rows, batch_size))


@pytest.mark.parametrize("name", [name for name in EDGES if name != "a token"])
def test_a_row_alone_has_the_loss_and_gradients_of_the_peer(bench: Bench, name: str) -> None:
    rows = [list(EDGES).index(name)]
    ours = bench.ours("full", rows, 1024)
    assert math.isfinite(ours.loss)
    assert_same(ours, bench.peer("trl", "full", rows, 1))


DPO = DpoObjective(kind="dpo", beta=0.3)


class TrlPairs(DPOTrainer):
    """Takes pairs that are tokenised already."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> TokenTable:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "train.tokens.arrow")


def dataset_of(table: TokenTable) -> Dataset:
    made: dict[str, list[list[int]]] = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
    for number, (asked, _, _) in enumerate(PAIRS.values()):
        chosen, rejected = (table.input_ids(2 * number + place).tolist() for place in range(2))
        for name, ids in zip(made, (chosen[:asked], chosen[asked:], rejected[asked:]), strict=True):
            made[name].append(ids)
    return Dataset.from_dict(made)


def peer_of_pairs(
    bench: Bench, kind: str, table: TokenTable, batch_size: int
) -> tuple[Step, dict[str, float]]:
    """What a step over all pairs comes to, and what TRL tells of it."""
    base = AutoModelForCausalLM.from_pretrained(bench.base, dtype=torch.float32)
    reference = None
    if kind == "full":
        model, reference = AutoModelForCausalLM.from_pretrained(bench.base, dtype=torch.float32), base
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(dict(bench.models["full moved"].model.named_parameters())[name])
    else:
        model = PeftModel.from_pretrained(base, bench.folder / kind / "adapter", is_trainable=True)
    arguments = DPOConfig(
        output_dir=str(bench.folder / "peer"),
        beta=DPO.beta,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=len(PAIRS) // batch_size,
        max_steps=1,
        logging_steps=1,
        max_length=None,
        max_grad_norm=0.0,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    gradients = Gradients()
    trainer = TrlPairs(
        model=model,
        ref_model=reference,
        args=arguments,
        train_dataset=dataset_of(table),
        processing_class=AutoTokenizer.from_pretrained(bench.base),
        callbacks=[gradients],
    )
    if kind != "full":
        # Else the reference were the adapter as it is, not the base.
        trainer.model.delete_adapter("ref")
    loss = trainer.train().training_loss
    return Step(loss, gradients.kept), trainer.state.log_history[0]


@pytest.mark.parametrize(("batch_size", "max_pack_tokens"), [(8, 4096), (1, 8)], ids=["8 x 1", "1 x 8"])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_step_over_pairs_has_the_loss_gradients_and_rewards_of_trl(
    bench: Bench, pairs: TokenTable, kind: str, batch_size: int, max_pack_tokens: int
) -> None:
    bench.models["full moved"] = moved = load_model(bench.base, torch.float32, CPU, FULL)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    model = {"full": moved, "lora": bench.models["lora"]}[kind]
    batches = Batches(pairs, pairs, ALONE, max_pack_tokens, DPO)
    reference = reference_log_probabilities(bench.models["full"], batches, pairs)
    packs = batches.packs(pairs, range(len(pairs)), reference)
    assert len(packs) == len(PAIRS) // batch_size
    model.zero_grad()
    sums = accumulate(model, packs, 1 / len(PAIRS), batches).sum(0) / len(PAIRS)
    grads = {n: p.grad.clone() for n, p in model.model.named_parameters() if p.grad is not None}
    expected, told = peer_of_pairs(bench, kind, pairs, batch_size)
    assert_same(Step(float(sums[0]), grads), expected)
    assert 0.1 < float(sums[3]) < 0.9, "some pairs are as preferred, others not"
    for name, value in zip(batches.measures, sums.tolist(), strict=True):
        assert value == pytest.approx(told[name], rel=1e-3, abs=1e-4), name
