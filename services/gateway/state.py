"""What every route has at hand, and who asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast

import httpx
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from gateway.errors import ApiError
from tunebook_jobs.database import Database
from tunebook_jobs.keys import Caller, caller_of
from tunebook_run.settings import GatewaySettings
from tunebook_run.store import Store

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
    request: Request, sent: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Caller:
    """Whose key was sent.

    Raises:
        ApiError: 401.
    """
    if sent is None or not sent.credentials:
        message = "You didn't provide an API key: send it in an Authorization header, as Bearer YOUR_KEY."
        raise ApiError(401, message)
    caller = caller_of(state_of(request).database, sent.credentials)
    if caller is None:
        raise ApiError(401, "Incorrect API key provided.", code="invalid_api_key")
    request.state.caller = caller
    return caller


StateOf = Annotated[State, Depends(state_of)]
CallerOf = Annotated[Caller, Depends(authenticated)]
