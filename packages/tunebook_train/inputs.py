"""The part of a spec that each stage of this package reads; a stage is handed this and nothing else."""

from __future__ import annotations

from tunebook_spec import Spec
from tunebook_spec.models import Frozen, FullMethod


class TrainInputs(Frozen):
    method: FullMethod
    """`base_share` is merge's to read, and always its default here."""
    seed: int

    @classmethod
    def of(cls, spec: Spec) -> TrainInputs:
        method = spec.method.model_copy(update={"base_share": 0.0})
        return cls(method=method, seed=spec.seed)


class MergeInputs(Frozen):
    base_share: float

    @classmethod
    def of(cls, spec: Spec) -> MergeInputs:
        return cls(base_share=spec.method.base_share)
