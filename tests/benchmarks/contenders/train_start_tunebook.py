import json
import os
import shutil
from pathlib import Path
from typing import Any

from contender import compete

from tunebook_cli.local_ray import LocalRay

RAY = LocalRay()
ADDRESS = RAY.address()


def work(folder: Path) -> dict[str, Any]:
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
        ray_address=ADDRESS,
        num_workers=1,
        min_workers=1,
        cpus_per_worker=len(os.sched_getaffinity(0)),
        advance=lambda done, total, note="": None,
    )
    return {"losses": [entry["loss"] for entry in read_metrics(store, stage.key) if "loss" in entry]}


if __name__ == "__main__":
    compete(work, lambda made: made, "torch", "transformers", "ray")
    RAY.stop()
