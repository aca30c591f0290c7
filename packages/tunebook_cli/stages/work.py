"""What a stage has at hand, and what several of them open."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from tunebook_cli.request import Request
from tunebook_run.progress import Advance
from tunebook_run.settings import ModelSettings, Settings
from tunebook_run.stages import Artifact
from tunebook_run.store import Store

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tunebook_eval.shots import Embed
    from tunebook_inference.generator import Engine
    from tunebook_inference.kept_answers import KeptAnswers
    from tunebook_inference.supporting import SupportingModel
    from tunebook_spec.base_model import AnySupportingModel

logger = logging.getLogger(__name__)


class Outcome(NamedTuple):
    result: dict[str, Any]
    summary: str
    """What the stage did, in one line."""


class Work(NamedTuple):
    """What a stage has at hand."""

    request: Request
    settings: Settings
    store: Store
    parents: dict[str, Path]
    out: Path
    advance: Advance

    @property
    def fields(self) -> Any:
        return self.request.stage.inputs["fields"]


def open_engine(
    work: Work,
    model: Path,
    kwargs: dict[str, str | bool],
    temperature: float = 0.0,
    seed: int = 0,
    *,
    takes_schemas: bool = False,
) -> Engine:
    """What answers batches by a model: an engine in this process, or engines on the hosts of a cluster."""
    from tunebook_inference.generator import Decoding
    from tunebook_model.render import Renderer

    renderer, decoding = Renderer.load(model, kwargs), Decoding(temperature, seed)
    settings = work.settings
    if settings.num_engines and settings.ray_address is not None:
        from tunebook_inference.ray_engines import RayEngines

        return RayEngines(
            model,
            renderer,
            decoding,
            work.store,
            settings.ray_address,
            settings.num_engines,
            settings.cpus_per_worker,
            takes_schemas=takes_schemas,
        )
    from tunebook_inference.vllm_engine import VLLMEngine
    from tunebook_model.precision import compute_dtype

    precision = compute_dtype()
    logger.info("%-16s computes in %s", work.request.stage.name, precision.reason)
    return VLLMEngine(model, renderer, decoding, precision.dtype, takes_schemas=takes_schemas)


def embedder(assets_dir: Path) -> Embed:
    """Embeds texts; what it takes is imported at the first."""

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        from tunebook_eval import embeddings

        return embeddings.embed(texts, assets_dir=assets_dir)

    return embed


@contextlib.contextmanager
def supporting(
    work: Work,
    references: Mapping[str, AnySupportingModel],
    settings: Mapping[str, ModelSettings] = MappingProxyType({}),
) -> Iterator[dict[str, SupportingModel]]:
    """Supporting models by role, which keep what they are answered; `settings` go before the machine's."""
    from tunebook_inference.supporting import open_model

    with kept_answers(work) as kept:
        yield {
            role: open_model(
                role,
                reference,
                settings.get(role, work.settings.of_model(role)),
                work.request.supporting.get(role),
                kept,
                work.request.spec_dir,
                partial(open_engine, work, takes_schemas=True),
            )
            for role, reference in references.items()
        }


@contextlib.contextmanager
def kept_answers(work: Work) -> Iterator[KeptAnswers]:
    from tunebook_inference.kept_answers import KeptAnswers

    # Beside the artifacts, since money paid for it; an object store can hold no database.
    kept = KeptAnswers((work.store.local_root or work.settings.cache_dir) / "answers.sqlite")
    try:
        yield kept
    finally:
        kept.close()


def without_summary(artifact: Artifact) -> dict[str, Any]:
    return {name: value for name, value in artifact.result.items() if name != "summary"}


def by_name(parents: Mapping[str, Path], prefix: str) -> dict[str, Path]:
    """The parents whose stage's name begins so, by what follows."""
    return {name.removeprefix(prefix): path for name, path in parents.items() if name.startswith(prefix)}
