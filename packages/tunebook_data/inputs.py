"""The part of a spec that each stage of this package reads; a stage is handed this and nothing else."""

from __future__ import annotations

from pydantic import Field

from tunebook_spec import Spec
from tunebook_spec.base_model import AnySupportingModel
from tunebook_spec.data import Data
from tunebook_spec.evaluation import FileSet, InlineSet, SuiteName, SuiteSet, TextsName, TextsSet
from tunebook_spec.fields import Frozen
from tunebook_spec.method import DpoObjective


class ReplayInputs(Frozen):
    max_tokens: int
    max_prompts: int | None
    chat_template_kwargs: dict[str, str | bool]

    @classmethod
    def of(cls, spec: Spec) -> ReplayInputs | None:
        """None where the spec rehearses nothing."""
        replay = spec.data.replay
        if replay is None or replay.share == 0:
            return None
        return cls(
            max_tokens=replay.max_tokens,
            max_prompts=replay.max_prompts,
            chat_template_kwargs=spec.base_model.chat_template_kwargs,
        )


class PrepareInputs(Frozen):
    data: Data
    seed: int
    chat_template_kwargs: dict[str, str | bool]
    suites: tuple[SuiteName, ...]
    """Suites that evaluate: nothing of them may be trained on or rehearsed."""
    questions: tuple[str, ...]
    """Questions of the spec's own suites, likewise."""
    texts: tuple[TextsName, ...]
    """Collections of texts that evaluate, likewise."""
    suite_files: tuple[str, ...] = ()
    """Files of the spec's own suites, likewise; what they ask is kept with the data."""
    models: dict[str, AnySupportingModel] = Field(default_factory=dict)
    """The supporting models that judge or write rows, by role."""
    learns_preferences: bool = False
    """Whether rows are preferences, of which both answers are trained on."""

    @classmethod
    def of(cls, spec: Spec) -> PrepareInputs:
        sets = spec.evaluation.sets.values()
        return cls(
            data=spec.data,
            seed=spec.seed,
            chat_template_kwargs=spec.base_model.chat_template_kwargs,
            suites=tuple(sorted({each.suite for each in sets if isinstance(each, SuiteSet)})),
            questions=tuple(item.q for each in sets if isinstance(each, InlineSet) for item in each.items),
            suite_files=files_asked(spec),
            texts=tuple(sorted({each.texts for each in sets if isinstance(each, TextsSet)})),
            models={role: spec.models[role] for role in spec.data.roles},
            learns_preferences=isinstance(spec.method.objective, DpoObjective),
        )


def files_asked(spec: Spec) -> tuple[str, ...]:
    """The files whose questions evaluate, as the spec names them."""
    return tuple(sorted({each.file for each in spec.evaluation.sets.values() if isinstance(each, FileSet)}))
