"""The part of a spec that each stage of this package reads; a stage is handed this and nothing else."""

from __future__ import annotations

from tunebook_spec import Spec
from tunebook_spec.fields import Frozen
from tunebook_spec.method import HostedMethod, LocalMethod, MergeBase, QloraMethod


class TrainInputs(Frozen):
    method: LocalMethod
    seed: int

    @classmethod
    def of(cls, spec: Spec) -> TrainInputs:
        method = spec.method
        assert not isinstance(method, HostedMethod), "a provider is told HostedInputs"
        if isinstance(method, QloraMethod):
            # Training knows nothing of the merge, which must not move it.
            method = method.model_copy(update={"merge_into": "dequantised"})
        return cls(method=method, seed=spec.seed)


class HostedInputs(Frozen):
    method: HostedMethod
    seed: int

    @classmethod
    def of(cls, spec: Spec) -> HostedInputs:
        assert isinstance(spec.method, HostedMethod)
        return cls(method=spec.method, seed=spec.seed)


class MergeInputs(Frozen):
    into: MergeBase | None
    """None where the base was not quantised: the trained weights and the base decide what is merged."""

    @classmethod
    def of(cls, spec: Spec) -> MergeInputs:
        method = spec.method
        return cls(into=method.merge_into if isinstance(method, QloraMethod) else None)
