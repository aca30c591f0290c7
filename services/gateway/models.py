"""Routes of models: the base models and their aliases, and what a project has tuned."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from gateway.errors import ApiError, model_not_found
from gateway.state import CallerOf, Lock, State, StateOf
from gateway.wire import Deleted, Model, ModelList
from tunebook_jobs.ids import scenario_of
from tunebook_jobs.queue import UNFINISHED
from tunebook_jobs.tables import Checkpoint, Job, TunedModel

OWNER = "tunebook"
_SINCE = 0
"""Nobody knows when a base model was made."""

router = APIRouter(tags=["Models"])


@dataclass(frozen=True)
class Served:
    """A model that may be asked."""

    name: str
    """As the caller calls it."""
    on_server: str
    """As the model server knows it: a base model's name, or a run."""
    tuned: TunedModel | None
    """None: a base model."""


def find_model(
    session: Session, state: State, project: str, name: str, *, lock: Lock | None = None
) -> Served:
    """A base model, its alias, or a tuned model or checkpoint of a project.

    Args:
        session: of a transaction.
        state: of the gateway.
        project: of the caller.
        name: as the caller gave it.
        lock: until the end of the transaction, so that no model is deleted that a new job is to start from.

    Raises:
        ApiError: 404.
    """
    settings = state.settings
    if settings.base_model(name) is not None:
        return Served(name, settings.aliases.get(name, name), None)
    of_checkpoint = select(Checkpoint.job).where(Checkpoint.model == name)
    query = select(TunedModel).where(
        TunedModel.project == project, or_(TunedModel.id == name, TunedModel.job.in_(of_checkpoint))
    )
    tuned = session.scalar(query if lock is None else query.with_for_update(read=lock == "use"))
    if tuned is None:
        raise model_not_found(name)
    return Served(name, tuned.run, tuned)


@router.get("/models")
def list_models(caller: CallerOf, state: StateOf) -> ModelList:
    names = (*state.settings.base_models, *state.settings.aliases)
    bases = [Model(id=name, created=_SINCE, owned_by=OWNER) for name in names]
    mine = select(TunedModel).where(TunedModel.project == caller.project).order_by(TunedModel.number)
    with state.database.read() as session:
        tuned = [_shown(row) for row in session.scalars(mine)]
    return ModelList(data=[*bases, *tuned])


@router.get("/models/{model:path}")
def retrieve_model(caller: CallerOf, state: StateOf, model: str) -> Model:
    with state.database.read() as session:
        found = find_model(session, state, caller.project, model)
    if found.tuned is None:
        return Model(id=model, created=_SINCE, owned_by=OWNER)
    return _shown(found.tuned).model_copy(update={"id": model})


@router.delete("/models/{model:path}")
def delete_model(caller: CallerOf, state: StateOf, model: str) -> Deleted:
    """Refused with `model_in_use` where a job starts from it that has not ended."""
    with state.database.write() as session:
        tuned = find_model(session, state, caller.project, model, lock="delete").tuned
        if tuned is None:
            raise ApiError(403, f"The model '{model}' is a base model and cannot be deleted.", param="model")
        starts_from_it = Job.base_model["run"].as_string() == tuned.run
        if job := session.scalar(select(Job.id).where(Job.status.in_(UNFINISHED), starts_from_it).limit(1)):
            told = (
                f"Model {model} cannot be deleted: {job} starts from it. Wait for its end, or cancel the job."
            )
            raise ApiError(400, told, param="model", code="model_in_use")
        session.delete(tuned)
    state.store.delete(scenario_of(tuned.job))
    return Deleted(id=model, object="model")


def _shown(row: TunedModel) -> Model:
    return Model(id=row.id, created=row.created_at, owned_by=row.project)
