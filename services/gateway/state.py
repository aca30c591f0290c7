"""What every route has at hand, and who asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, cast

import httpx
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from tunebook_jobs.database import Database
from tunebook_jobs.keys import Caller
from tunebook_run.settings import GatewaySettings
from tunebook_run.store import Store

Lock = Literal["use", "delete"]
"""Of a row: many may use what none deletes meanwhile."""
_bearer = HTTPBearer(auto_error=False, description="An API key, from `tunebook keys create`.")


@dataclass(frozen=True)
class State:
    settings: GatewaySettings
    store: Store
    database: Database
    model_server: httpx.AsyncClient


def state_of(request: Request) -> State:
    return cast(State, request.app.state.gateway)


def authenticated(
    request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Caller:
    """Whose key was sent, as the doorway has found out before."""
    return cast(Caller, request.state.caller)


StateOf = Annotated[State, Depends(state_of)]
CallerOf = Annotated[Caller, Depends(authenticated)]
