"""The published document is kept: requests made from it get no 5xx and no answer that it does not know."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, seed, settings

from tests import postgres
from tests.gateway_client import ROWS, Gateway, finish, open_gateway

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import schemathesis
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
EXAMPLES = 5


def test_requests_of_any_kind_get_documented_answers(tmp_path: Path) -> None:
    with open_gateway(tmp_path) as gateway:
        ask_all(gateway)


def test_on_postgres_too(tmp_path: Path, postgres_url: str) -> None:
    with open_gateway(tmp_path, postgres_url) as gateway:
        ask_all(gateway)
        postgres.empty(gateway.state.database)


def ask_all(gateway: Gateway) -> None:
    acme = gateway.project("any")
    file = acme.upload(ROWS)["id"]
    done, waiting = (acme.create(file).json()["id"] for _ in range(2))
    ids = {"file_id": file, "job_id": waiting, "model": finish(gateway, done)}
    schema = schemathesis.openapi.from_asgi("/openapi.json", gateway.app)
    asked = 0
    statuses: set[int] = set()
    for found in schema.get_all_operations():
        operation = found.ok()

        @seed(0)
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(), is_known=...)
        def ask(case: Any, is_known: bool) -> None:
            nonlocal asked
            if is_known:  # else the name of what is not there, of any form
                case.path_parameters = {name: ids[name] for name in case.path_parameters or {}}
            response = case.call(headers={"Authorization": f"Bearer {acme.key}"})
            case.validate_response(response, checks=CHECKS)
            asked += 1
            statuses.add(response.status_code)

        ask()
    assert asked >= EXAMPLES * 10
    assert {200, 400, 404} <= statuses
