"""The part of a spec that each stage of this package reads; a stage is handed this and nothing else."""

from __future__ import annotations

from tunebook_spec import Spec
from tunebook_spec.models import AnyMethod, Frozen


class TrainInputs(Frozen):
    method: AnyMethod
    seed: int

    @classmethod
    def of(cls, spec: Spec) -> TrainInputs:
        return cls(method=spec.method, seed=spec.seed)


class MergeInputs(Frozen):
    """Nothing: the trained weights and the base decide what is merged."""
