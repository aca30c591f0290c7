import json
from pathlib import Path
from typing import Any

from contender import compete


def work(folder: Path) -> dict[str, Any]:
    import torch

    from tunebook_data.tokens import TokenTable
    from tunebook_model.precision import compute_dtype
    from tunebook_spec.method import FullMethod
    from tunebook_train.allocator import keep_freed_memory
    from tunebook_train.checkpoint import Training
    from tunebook_train.loop import Batches, Worker, run_steps
    from tunebook_train.merge_probes import probe
    from tunebook_train.optimizer import make_optimizer, make_schedule
    from tunebook_train.pack import Pack, plan_steps
    from tunebook_train.step import check_loss, load_model

    keep_freed_memory()
    device, method = torch.device("cpu"), FullMethod(kind="full", epochs=1)
    train, none = (TokenTable.open(folder / f"{name}.tokens.arrow") for name in ("train", "none"))
    steps = plan_steps(train.lengths, tokens_per_step=method.tokens_per_step, epochs=1, seed=0)
    model = Path(json.loads((folder / "rows.json").read_text())["model"])
    torch.manual_seed(0)
    loss = load_model(model, getattr(torch, compute_dtype().dtype), device, method)
    optimizer = make_optimizer(loss, method)
    training = Training(loss, optimizer, make_schedule(optimizer, method, len(steps)), digest="")
    batches = Batches(train, none, Worker(0, 1, device), method.max_pack_tokens)
    check_loss(loss, Pack.of(train, [int(train.lengths.argmax())], device))
    run_steps(training, steps, batches, method, seed=0, on_step=lambda: None)
    probe(loss, train, device).write(Path())
    loss.model.save_pretrained("weights")
    return {"losses": [entry["loss"] for entry in training.metrics if "loss" in entry]}


if __name__ == "__main__":
    compete(work, lambda made: made, "torch", "transformers")
