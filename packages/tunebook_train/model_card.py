"""The README.md of a tuned model: what it was made of and how, as the Hugging Face hub reads it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from huggingface_hub import ModelCard, ModelCardData

from tunebook_data.manifest import DatasetManifest
from tunebook_model import builtin
from tunebook_model.resolve import ReadyModel
from tunebook_spec.method import AnyObjective, DpoObjective
from tunebook_train.inputs import TrainInputs
from tunebook_train.result import TrainResult

logger = logging.getLogger(__name__)

NAME = "README.md"


@dataclass(frozen=True)
class ModelFacts:
    """What a card tells of a model."""

    scenario: str
    base: ReadyModel
    inputs: TrainInputs
    trained: TrainResult
    manifest: DatasetManifest
    digests: Mapping[str, str]
    """Of the stages that made it, by name."""


def model_card(facts: ModelFacts, *, is_adapter: bool) -> str:
    """The card of the adapter, or of the merged model."""
    base, licence = facts.base, base_licence(facts.base)
    is_of_hub = base.revision is not None
    data = ModelCardData(
        base_model=base.name if is_of_hub else builtin.REPO if base.name == builtin.TITLE else None,
        base_model_relation="adapter" if is_adapter else "finetune",
        library_name="peft" if is_adapter else "transformers",
        license=None if licence is None else licence.partition(" ")[0],
        pipeline_tag="text-generation",
        tags=["tunebook", facts.inputs.method.kind],
    )
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(_lines(facts, licence, is_adapter=is_adapter)) + "\n"


def base_licence(base: ReadyModel) -> str | None:
    """As the base's own card has it; None where it has none."""
    if base.name == builtin.TITLE:
        return builtin.LICENCE
    card = base.path / NAME
    if not card.is_file():
        return None
    try:
        data = ModelCard.load(card, ignore_metadata_errors=True).data
    except Exception as error:  # whatever others wrote there must not cost a training
        logger.warning("the card of the base cannot be read, and tells no licence: %s", error)
        return None
    named = [data.get(name) for name in ("license_name", "license_link")]
    return " ".join(each for each in (data.license, *named) if isinstance(each, str)) or None


def _lines(facts: ModelFacts, licence: str | None, *, is_adapter: bool) -> Iterator[str]:
    base, trained = facts.base, facts.trained
    what = "A PEFT adapter of" if is_adapter else "A tuned copy of"
    revision = f" at revision {base.revision}" if base.revision else ""
    yield f"# {facts.scenario}\n"
    yield f"{what} {base.name}{revision}, by Tunebook.\n"
    stated = licence or "not stated in its folder; ask where it came from"
    yield f"Licence of the base: {stated}. The data below may have terms of their own.\n"
    yield from data_lines(facts.manifest, facts.inputs.method.objective)
    yield "## Training\n"
    yield "| parameter | value |\n|---|---|"
    for name, value in facts.inputs.method.model_dump(mode="json").items():
        yield f"| {name} | {value} |"
    yield f"| seed | {facts.inputs.seed} |"
    yield "\n## Metrics\n"
    yield "| metric | value |\n|---|---|"
    yield f"| steps | {trained.steps} |"
    yield f"| tokens | {trained.tokens} |"
    yield f"| trained parameters | {trained.trainable_parameters} of {trained.parameters} |"
    yield f"| training loss, last step | {trained.loss:.4f} |"
    for name, loss in (
        ("before", trained.validation_loss_before),
        ("of these weights", trained.validation_loss),
    ):
        if loss is not None:
            yield f"| validation loss {name} | {loss:.4f} |"
    if trained.validation_accuracy is not None:
        yield f"| validation pairs as preferred | {trained.validation_accuracy:.4f} |"
    if trained.best_step is not None:
        yield f"| step of these weights | {trained.best_step} |"
    yield "\nWhat it scores against its base, with errors, stands in the report of the run.\n"
    yield "## Lineage\n"
    yield "| made by | sha256 |\n|---|---|"
    yield f"| base model | {base.digest} |"
    for stage, digest in facts.digests.items():
        yield f"| {stage} | {digest} |"


def data_lines(manifest: DatasetManifest, objective: AnyObjective) -> Iterator[str]:
    """What a model has learnt from."""
    yield "## Data\n"
    yield "| source | task | rows in | train | validation | test |\n|---|---|---|---|---|---|"
    for source in manifest.sources:
        counts = (source.rows_in, source.train, source.validation, source.test)
        yield f"| {source.source} | {source.task} | {' | '.join(map(str, counts))} |"
    train = manifest.splits["train"]
    learnt = f"{train.tokens} tokens, {train.supervised_tokens} of them learnt"
    what = "pairs of answers" if isinstance(objective, DpoObjective) else "rows"
    yield f"\nTrained on {train.rows} {what} of {learnt}.\n"
    if manifest.replay:
        yield f"Of these, {manifest.replay.rows} rows rehearse answers of the base itself.\n"
    for each in manifest.attribution:
        yield f"{each.name}, {each.licence}: {'; '.join(each.attribution)}\n"
