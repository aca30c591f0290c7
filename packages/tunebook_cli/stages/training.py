"""From a data set to a model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from tunebook_cli.stages.work import Outcome, Work, without_summary
from tunebook_run.stages import read_artifact, stage_key

if TYPE_CHECKING:
    from tunebook_train.inputs import TrainInputs
    from tunebook_train.result import TrainResult

logger = logging.getLogger(__name__)


def train_stage(work: Work) -> Outcome:
    from tunebook_train.inputs import TrainInputs
    from tunebook_train.job import ADAPTER
    from tunebook_train.train import train

    inputs = TrainInputs.model_validate(work.fields)
    done = train(
        inputs,
        stage=work.request.stage,
        store=work.store,
        data_key=work.request.parents["prepare"],
        model=work.request.model,
        ray_address=work.request.ray_address,
        num_workers=work.settings.num_workers,
        min_workers=work.settings.min_workers or work.settings.num_workers,
        cpus_per_worker=work.settings.cpus_per_worker,
        advance=work.advance,
    )
    if (work.out / ADAPTER).is_dir():
        digest = work.request.stage.digest
        _write_card(work, work.out / ADAPTER, inputs, done, work.request.parents["prepare"], digest)
    return Outcome(done.model_dump(mode="json"), done.summary())


def train_hosted_stage(work: Work) -> Outcome:
    from tunebook_data.inputs import PrepareInputs
    from tunebook_data.manifest import DatasetManifest
    from tunebook_train.hosted.card import hosted_card
    from tunebook_train.hosted.train import train_hosted
    from tunebook_train.inputs import HostedInputs
    from tunebook_train.model_card import NAME

    inputs = HostedInputs.model_validate(work.fields)

    prepared = read_artifact(work.store, work.request.parents["prepare"])
    assert prepared is not None
    checks = PrepareInputs.model_validate(prepared.inputs["fields"]).data.checks
    done = train_hosted(
        inputs,
        stage=work.request.stage,
        store=work.store,
        data_dir=work.parents["prepare"],
        out=work.out,
        settings=work.settings.hosted,
        sends_personal=checks.personal_data == "allow",
        advance=work.advance,
    )
    manifest = DatasetManifest.model_validate(without_summary(prepared))
    digests = {"prepare": prepared.digest, "train": work.request.stage.digest}
    card = hosted_card(work.request.stage.scenario, inputs, done, manifest, digests)
    (work.out / NAME).write_text(card)
    return Outcome(done.model_dump(mode="json"), done.summary())


def merge_stage(work: Work) -> Outcome:
    from tunebook_train.inputs import MergeInputs, TrainInputs
    from tunebook_train.merge import MODEL, merge
    from tunebook_train.result import TrainResult

    done = merge(
        MergeInputs.model_validate(work.fields),
        trained_dir=work.parents["train"],
        base_dir=work.request.model.path,
        out=work.out,
        advance=work.advance,
    )
    trained = read_artifact(work.store, work.request.parents["train"])
    assert trained is not None
    result = TrainResult.model_validate(without_summary(trained))
    inputs = TrainInputs.model_validate(trained.inputs["fields"])
    parents = trained.inputs["parents"]
    assert isinstance(parents, dict)
    prepare_key = stage_key(work.request.stage.scenario, "prepare", str(parents["prepare"]))
    _write_card(work, work.out / MODEL, inputs, result, prepare_key, trained.digest)
    return Outcome(done.model_dump(mode="json"), done.summary())


def _write_card(
    work: Work, folder: Path, inputs: TrainInputs, trained: TrainResult, prepare_key: str, train_digest: str
) -> None:
    """The README.md of an adapter's folder, or of a merged model's."""
    from tunebook_data.manifest import DatasetManifest
    from tunebook_train.job import ADAPTER
    from tunebook_train.model_card import NAME, ModelFacts, model_card

    prepared = read_artifact(work.store, prepare_key)
    assert prepared is not None
    facts = ModelFacts(
        scenario=work.request.stage.scenario,
        base=work.request.model,
        inputs=inputs,
        trained=trained,
        manifest=DatasetManifest.model_validate(without_summary(prepared)),
        digests={"prepare": prepared.digest, "train": train_digest},
    )
    (folder / NAME).write_text(model_card(facts, is_adapter=folder.name == ADAPTER))
