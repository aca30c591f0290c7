"""The README.md of a model that a provider holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from huggingface_hub import ModelCardData

from tunebook_data.manifest import DatasetManifest
from tunebook_train.inputs import HostedInputs
from tunebook_train.model_card import data_lines
from tunebook_train.result import HostedResult

_TOLD = (
    *("job", "training_file", "validation_file", "rows", "withheld", "trained_tokens", "cost", "checkpoints"),
    *("steps", "loss", "validation_loss"),
)


def hosted_card(
    scenario: str,
    inputs: HostedInputs,
    trained: HostedResult,
    manifest: DatasetManifest,
    digests: Mapping[str, str],
) -> str:
    """Where the model is, what it was made of and how; `digests` are those of the stages that made it."""
    data = ModelCardData(pipeline_tag="text-generation", tags=["tunebook", inputs.method.kind])
    lines = _lines(scenario, inputs, trained, manifest, digests)
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(lines) + "\n"


def _lines(
    scenario: str,
    inputs: HostedInputs,
    trained: HostedResult,
    manifest: DatasetManifest,
    digests: Mapping[str, str],
) -> Iterator[str]:
    yield f"# {scenario}\n"
    made = f"`{trained.fine_tuned_model}` at {trained.provider}, made there of {trained.base_model}"
    yield f"{made}, by Tunebook.\n"
    yield "Its weights and its licence are the provider's. The data below may have terms of their own.\n"
    yield from data_lines(manifest, inputs.method.objective)
    yield "## Training\n"
    yield "| as the provider tells it | value |\n|---|---|"
    for name, value in trained.hyperparameters.items():
        yield f"| {name} | {value} |"
    yield f"| seed | {inputs.seed} |"
    for name in _TOLD:
        if (told := getattr(trained, name)) is not None:
            yield f"| {name.replace('_', ' ')} | {told} |"
    yield "\nWhat it scores against its base, with errors, stands in the report of the run.\n"
    yield "## Lineage\n"
    yield "| made by | sha256 |\n|---|---|"
    for stage, digest in digests.items():
        yield f"| {stage} | {digest} |"
