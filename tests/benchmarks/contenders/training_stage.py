"""The stage `train` as a run has it, with one worker."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any


def train_stage(folder: Path, ray_address: str | None) -> dict[str, Any]:
    from tunebook_model.resolve import ReadyModel
    from tunebook_run.stages import Stage
    from tunebook_run.store import Store
    from tunebook_spec.method import FullMethod
    from tunebook_train.inputs import TrainInputs
    from tunebook_train.job import read_metrics
    from tunebook_train.train import train

    store = Store("runs", Path("cache"))
    data = store.folder("data")
    data.mkdir(parents=True)
    for name, file in (("train", "train"), ("validation", "none")):
        shutil.copy(folder / f"{file}.tokens.arrow", data / f"{name}.tokens.arrow")
    inputs = TrainInputs(method=FullMethod(kind="full", epochs=1), seed=0)
    stage = Stage.of("bench", "train", inputs)
    model = Path(json.loads((folder / "rows.json").read_text())["model"])
    train(
        inputs,
        stage=stage,
        store=store,
        data_key="data",
        model=ReadyModel(model, "base", "0", None),
        ray_address=ray_address,
        num_workers=1,
        min_workers=1,
        cpus_per_worker=len(os.sched_getaffinity(0)),
        advance=lambda done, total, note="": None,
    )
    return {"losses": [entry["loss"] for entry in read_metrics(store, stage.key) if "loss" in entry]}
