from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from tests import postgres
from tests.gateway_client import Gateway, Project, open_gateway


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else None
    with open_gateway(folder, url) as made:
        yield made
        if url:
            postgres.empty(made.state.database)


@pytest.fixture
def acme(gateway: Gateway) -> Project:
    """A project that no other test has used."""
    return gateway.project(f"acme-{secrets.token_hex(4)}")
