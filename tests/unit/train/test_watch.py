from __future__ import annotations

from typing import Any

import pytest

from tunebook_train.watch import BARS, WIDTH, curve, training_lines


def step(number: int, **more: Any) -> dict[str, Any]:
    measured = {"tokens_per_s": 1234.5, "mfu": 0.5, "peak_memory_gib": 2.25, "eta_s": 9.6}
    return {"step": number, "epoch": 0, "loss": 2.0 / number, "learning_rate": 1e-3, **measured, **more}


def test_nothing_is_said_before_the_first_step() -> None:
    assert training_lines([]) == []
    assert training_lines([{"num_steps": 4}, {"step": 0, "validation_loss": 3.0}]) == []


def test_the_newest_step_and_both_curves_are_shown() -> None:
    entries = [{"num_steps": 4}, {"step": 0, "validation_loss": 3.0}, step(1), step(2)]
    entries += [{"step": 2, "validation_loss": 1.5}]
    assert training_lines(entries) == [
        "step 2 of 4, epoch 1  [##########          ] 50%, about 10 s left",
        "loss 1.0000  learning rate 1.00e-03  1,234 tokens/s  MFU 50.0%  2.2 GiB at most",
        f"loss        {BARS[-1]}{BARS[0]}  2.000 to 1.000",
        f"validation  {BARS[-1]}{BARS[0]}  3.000 to 1.500",
    ]


@pytest.mark.parametrize("num", [1, 7, WIDTH, 1000])
def test_a_curve_falls_with_its_values_and_is_no_wider_than_it_may_be(num: int) -> None:
    drawn = curve([float(num - each) for each in range(num)])
    assert len(drawn) == min(num, WIDTH)
    assert list(drawn) == sorted(drawn, reverse=True)
    assert (num == 1) or (drawn[0], drawn[-1]) == (BARS[-1], BARS[0])


def test_a_flat_curve_is_flat() -> None:
    assert curve([1.0] * 5) == BARS[0] * 5
