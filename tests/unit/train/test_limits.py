"""What becomes of a training whose files, disk or memory fail."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.unit.train.tables import MakeTable
from tests.unit.train.test_loop import LENGTHS, METHOD, make_training, run, weights
from tunebook_run.store import Store, is_disk_full
from tunebook_spec.errors import StageError
from tunebook_spec.method import LoraMethod, QloraMethod, TrainingMethod
from tunebook_train.checkpoint import POSITION, STATE, Training
from tunebook_train.limits import way_out
from tunebook_train.step import SupervisedLoss


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit of the state": lambda folder: flip_a_bit(folder / STATE),
    "a bit of the position": lambda folder: flip_a_bit(folder / POSITION),
    "half of the state": lambda folder: (folder / STATE).write_bytes((folder / STATE).read_bytes()[:5000]),
    "no state": lambda folder: (folder / STATE).unlink(),
    "an empty folder": lambda folder: [path.unlink() for path in folder.iterdir()],
}


@pytest.fixture
def checkpoints(loss_model: SupervisedLoss, make_table: MakeTable, tmp_path: Path) -> tuple[Path, Path]:
    """Of steps 2 and 4 of one training."""
    folders = tmp_path / "2", tmp_path / "4"

    def save(training: Training) -> None:
        if training.step in (2, 4):
            (tmp_path / str(training.step)).mkdir()
            training.save(tmp_path / str(training.step))

    run(loss_model, make_table("train", LENGTHS), METHOD, watch=save)
    return folders


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_left_for_the_one_before_and_named(
    loss_model: SupervisedLoss, checkpoints: tuple[Path, Path], damage: Callable[[Path], object]
) -> None:
    older, newer = checkpoints
    expected = make_training(loss_model, METHOD, 8)
    expected.restore(older)
    damage(newer)
    training = make_training(loss_model, METHOD, 8)
    training.restore_newest([newer, older])
    assert training.step == 2
    assert training.metrics[-1] == {
        "resumed_at_step": 2,
        "damaged": [f"checkpoint {newer} is damaged"],
    }
    assert all(torch.equal(weights(training)[name], each) for name, each in weights(expected).items())


def test_the_newest_whole_checkpoint_is_taken_and_none_is_no_problem(
    loss_model: SupervisedLoss, checkpoints: tuple[Path, Path]
) -> None:
    training = make_training(loss_model, METHOD, 8)
    training.restore_newest([])
    assert (training.step, training.metrics) == (0, [])
    training.restore_newest(reversed(checkpoints))
    assert (training.step, training.metrics[-1]) == (4, {"resumed_at_step": 4})


def test_where_every_checkpoint_is_damaged_training_stops_and_names_them(
    loss_model: SupervisedLoss, checkpoints: tuple[Path, Path]
) -> None:
    for folder in checkpoints:
        flip_a_bit(folder / STATE)
    training = make_training(loss_model, METHOD, 8)
    with pytest.raises(StageError, match=r"2 is damaged; .*4 is damaged; no other is left: delete them"):
        training.restore_newest(checkpoints)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False)
    if mount.returncode:
        pytest.skip("only root can mount a disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_on_a_full_disk_a_checkpoint_ends_in_one_line_and_the_one_before_is_gone_on_from(
    loss_model: SupervisedLoss, checkpoints: tuple[Path, Path], small_disk: Path
) -> None:
    training = make_training(loss_model, METHOD, 8)
    training.restore(checkpoints[1])
    with pytest.raises(RuntimeError) as raised:
        training.save(small_disk)
    message = way_out(raised.value, METHOD, "/data/runs")
    assert message is not None
    assert message.startswith("no space left under /data/runs or ")
    assert "run again" in message
    again = make_training(loss_model, METHOD, 8)
    again.restore_newest([small_disk, *reversed(checkpoints)])
    assert again.step == 4


def test_what_does_not_fit_a_full_disk_leaves_the_file_that_was_there(
    small_disk: Path, tmp_path: Path
) -> None:
    store = Store(str(small_disk), tmp_path)
    store.write("a/metrics.jsonl", b"old")
    with pytest.raises(OSError, match="No space left") as raised:
        store.write("a/metrics.jsonl", bytes(2_000_000))
    assert is_disk_full(raised.value)
    assert not is_disk_full(FileNotFoundError(2, "No such file"))
    assert store.read("a/metrics.jsonl") == b"old"
    assert [path.name for path in (small_disk / "a").iterdir()] == ["metrics.jsonl"]


FSDP = ", share the model out over workers (method.parallel_strategy: fsdp)"


@pytest.mark.parametrize(
    ("method", "last"),
    [
        (METHOD, f"longer than that{FSDP}, or train an adapter (method.kind: lora, qlora)"),
        (LoraMethod(kind="lora"), f"longer than that{FSDP}, or take a smaller base_model"),
        (LoraMethod(kind="lora", parallel_strategy="fsdp"), "longer than that, or take a smaller"),
        (QloraMethod(kind="qlora"), "longer than that, or take a smaller"),
    ],
    ids=["full", "lora", "lora, fsdp", "qlora"],
)
def test_out_of_memory_names_the_setting_to_lower(
    loss_model: SupervisedLoss, make_table: MakeTable, method: TrainingMethod, last: str
) -> None:
    def ask_for_too_much(*_: object) -> None:
        torch.empty(2**45)

    loss_model.model.register_forward_pre_hook(ask_for_too_much)
    loss_model.register_forward_pre_hook(ask_for_too_much)
    with pytest.raises(RuntimeError) as raised:
        run(loss_model, make_table("train", LENGTHS), METHOD)
    message = way_out(raised.value, method, "/data/runs")
    assert message is not None
    assert "out of memory: lower method.max_pack_tokens (1024), or data.checks.max_tokens" in message
    assert last in message
    assert "you tried to allocate 140737488355328 bytes" in message
    assert "\n" not in message


def test_other_errors_are_no_matter_of_limits() -> None:
    assert way_out(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), METHOD, "/data") is None
