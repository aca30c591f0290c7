"""The spec as frozen models. A field's docstring is its documentation in editors, by the JSON Schema."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tunebook_spec.base_model import AnyBaseModel, AnySupportingModel, EndpointModel, HubModel, is_same_model
from tunebook_spec.data import Data
from tunebook_spec.evaluation import Evaluation
from tunebook_spec.fields import Frozen, Name, null_removes
from tunebook_spec.method import AnyMethod, HostedMethod
from tunebook_spec.needs import Needs


class Spec(Frozen):
    """One scenario: where its data comes from, how it is trained, how it is measured, what it must reach."""

    version: Literal[1]
    name: Name
    """The scenario; its runs live under this name."""
    problem: str = ""
    """The reader's problem in a sentence; opens the report."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Splits, shuffles and the choice of few-shot rows follow from it."""
    base_model: AnyBaseModel
    """What is tuned; under `method: hosted`, only whose tokenizer and chat template count and limit rows."""
    data: Data
    models: Annotated[dict[Name, AnySupportingModel], null_removes(dict[Name, AnySupportingModel | None])] = (
        Field({})
    )
    """Supporting models by role, e.g. `teacher`."""
    method: AnyMethod
    evaluation: Evaluation
    needs: Needs = Needs()
    """What only you know, for `tunebook advise`."""

    @property
    def roles(self) -> tuple[str, ...]:
        """The supporting models that anything of the spec asks."""
        return tuple(dict.fromkeys((*self.data.roles, *self.evaluation.arm_roles, *self.evaluation.roles)))

    def is_tuned_or_base(self, model: AnySupportingModel) -> bool:
        """Whether a supporting model is, by its name, the base model or what is made of it."""
        base, method = self.base_model, self.method
        if isinstance(method, HostedMethod):
            return isinstance(model, EndpointModel) and model.model == method.model
        if isinstance(model, EndpointModel):
            served = model.model.startswith(f"{self.name}@")  # as `tunebook serve` names it
            return served or (isinstance(base, HubModel) and model.model == base.repo)
        return is_same_model(model, base)
