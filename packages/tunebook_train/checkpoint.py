"""What a training needs to go on exactly where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from tunebook_spec.errors import StageError
from tunebook_train.sharding import fill, gathered, is_first, part_of, unwrapped

STATE = "state.pt"
POSITION = "position.json"
CHECKSUMS = "checksums.json"


class DamagedCheckpointError(StageError):
    pass


@dataclass
class Training:
    """A training under way."""

    model: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler
    digest: str
    """Of the stage: a checkpoint of another training is refused."""
    step: int = 0
    """Steps done, and so the position in the data."""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    """One entry a step or validation."""
    best: dict[str, Any] = field(default_factory=dict)
    """Weights of the lowest validation loss, where they are kept: on the CPU of rank 0, None elsewhere."""
    reference: dict[str, Tensor] = field(default_factory=dict)
    """Of pairs, what the untrained model gives the rows of each split."""

    def save(self, folder: Path) -> None:
        """Write what any number of workers, sharded or not, can go on from; all take part, rank 0 writes.

        Meanwhile the CPU of rank 0 holds all of what is sharded, 12 bytes a trained parameter.
        """
        state = {
            "model": gathered(self._trained()),
            "optimizer": gathered(self.optimizer.state_dict()),
            "schedule": self.schedule.state_dict(),
            "best": self.best,
            "reference": self.reference,
        }
        if not is_first():
            return
        with (folder / STATE).open("wb") as file:  # given a path, torch hides why a write failed
            torch.save(state, file)
        position = {"digest": self.digest, "step": self.step, "metrics": self.metrics}
        (folder / POSITION).write_text(json.dumps(position))
        (folder / CHECKSUMS).write_text(json.dumps(_checksums(folder)))

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            DamagedCheckpointError: its files are not what was saved.
            StageError: it is of another training.
        """
        _check_files(folder)
        position = json.loads((folder / POSITION).read_text())
        if position["digest"] != self.digest:
            raise StageError(
                f"checkpoint {folder} is of training {position['digest'][:12]}, "
                f"this is {self.digest[:12]}; delete it and run again"
            )
        # Mapped, so that a worker reads its parts alone, and copies them: the file may go away.
        state = torch.load(folder / STATE, weights_only=True, mmap=True)
        with torch.no_grad():
            for name, p in self._trained().items():
                p.copy_(part_of(state["model"][name], p))
        self.optimizer.load_state_dict(self._parts(state["optimizer"]))
        self.schedule.load_state_dict(state["schedule"])
        self.step, self.metrics = position["step"], position["metrics"]
        self.best = {name: tensor.clone() if is_first() else None for name, tensor in state["best"].items()}
        self.reference = {side: tensor.clone() for side, tensor in state["reference"].items()}

    def restore_newest(self, folders: Iterable[Path]) -> None:
        """Go on from the first checkpoint that is whole, newest first, if there is any; metrics tell of it.

        Raises:
            StageError: all are damaged, or one is of another training.
        """
        damaged: list[str] = []
        for folder in folders:
            try:
                self.restore(folder)
            except DamagedCheckpointError as error:
                damaged.append(str(error))
                continue
            self.metrics.append({"resumed_at_step": self.step, **({"damaged": damaged} if damaged else {})})
            return
        if damaged:
            raise StageError(f"{'; '.join(damaged)}; no other is left: delete them and run again")

    def keep_as_best(self) -> None:
        """All workers take part."""
        self.best = gathered(self._trained(), copy=True)

    def return_to_best(self) -> None:
        """The best weights again, on rank 0 and wherever weights are sharded; all workers take part."""
        for name, p in self._trained().items():
            fill(p, self.best[name])
        self.best = {}

    def kept(self) -> dict[str, Any]:
        """What is trained, whole, on the CPU of rank 0; all workers take part."""
        weights: dict[str, Any] = gathered(self._trained())
        return weights

    def _parts(self, state: dict[str, Any]) -> dict[str, Any]:
        """Of an optimizer's whole state, what this worker holds of it."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        parts = {
            index: {
                name: part_of(each, p)
                if isinstance(each, Tensor) and each.shape == p.shape
                else deepcopy(each)
                for name, each in of_p.items()
            }
            for p, (index, of_p) in zip(parameters, state["state"].items(), strict=True)
        }
        return {**state, "state": parts}

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in unwrapped(self.model).named_parameters() if p.requires_grad}


def _checksums(folder: Path) -> dict[str, str]:
    """By file; torch reads its own files without looking at theirs."""
    sums = {}
    for name in (STATE, POSITION):
        with (folder / name).open("rb") as file:
            sums[name] = hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
    return sums


def _check_files(folder: Path) -> None:
    try:
        is_whole = json.loads((folder / CHECKSUMS).read_text()) == _checksums(folder)
    except (FileNotFoundError, ValueError):
        is_whole = False
    if not is_whole:
        raise DamagedCheckpointError(f"checkpoint {folder} is damaged")
