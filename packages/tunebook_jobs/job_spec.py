"""From a job of the protocol to a spec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunebook_jobs.ids import scenario_of
from tunebook_jobs.tables import Job
from tunebook_jobs.training_file import CHECKS, TASK
from tunebook_run.record import find_run
from tunebook_run.settings import GatewaySettings
from tunebook_run.store import Store

TRAINING, VALIDATION = "training.jsonl", "validation.jsonl"


def job_spec(job: Job, settings: GatewaySettings, store: Store) -> dict[str, Any]:
    """The spec of a job, whose files lie beside it."""
    learns_preferences = job.method["type"] == "dpo"
    row_format = "preference" if learns_preferences else "messages"
    source = {"kind": "file", "task": TASK, "format": row_format}
    sources = [{**source, "path": TRAINING, "split": {"test": 0, "validation": 0}}]
    if job.validation_file is not None:
        # First, so that what is in both is not trained on.
        sources.insert(0, {**source, "path": VALIDATION, "split": {"test": 0, "validation": 1}})
    return {
        "version": 1,
        "name": scenario_of(job.id),
        "problem": f"Job {job.id} of {job.model}.",
        "seed": job.seed,
        "base_model": _from_anywhere(job.base_model, store),
        "data": {"sources": sources, "checks": CHECKS.model_dump(), "decontaminate": None},
        "method": _method(job, settings),
        # Nothing of it runs: a job ends where its model is made. It says how that model is served.
        "evaluation": {
            "decoding": {"temperature": 1.0},
            "sets": {"texts": {"texts": "fixed_texts", "metrics": ["log_likelihood"]}},
            "gates": [{"metric": "texts.log_likelihood", "max_drop": 1.0}],
        },
    }


def _method(job: Job, settings: GatewaySettings) -> dict[str, Any]:
    asked = job.hyperparameters
    method = {
        "kind": settings.method,
        "epochs": asked["n_epochs"],
        "learning_rate": settings.learning_rate * asked["learning_rate_multiplier"],
        "rows_per_step": asked["batch_size"],
        "checkpoint_every_steps": settings.checkpoint_every_steps,
    }
    if job.method["type"] == "dpo":
        method["objective"] = {"kind": "dpo", "beta": asked["beta"]}
    return method


def _from_anywhere(base_model: dict[str, Any], store: Store) -> dict[str, Any]:
    """The base model, where the spec's own folder does not matter."""
    match base_model["kind"]:
        case "run":
            merged = find_run(store, base_model["run"]).stage("merge")
            return {"kind": "folder", "path": str(store.download(merged.key) / "model")}
        case "folder" | "gguf":
            return {**base_model, "path": str(Path(base_model["path"]).expanduser().resolve())}
    return base_model
