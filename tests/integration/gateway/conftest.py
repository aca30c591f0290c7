from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from tests import postgres
from tests.gateway_client import Gateway, Project, open_gateway

ON_ALL_DATABASES = pytest.mark.parametrize("gateway", ["sqlite", "postgres"], indirect=True, scope="module")
"""For what a database can do otherwise than another; the rest is tested on SQLite."""


@pytest.fixture(scope="module")
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    is_postgres = getattr(request, "param", "sqlite") == "postgres"
    url = request.getfixturevalue("postgres_url") if is_postgres else None
    with open_gateway(folder, url) as made:
        yield made
        if url:
            postgres.empty(made.state.database)


@pytest.fixture
def acme(gateway: Gateway) -> Project:
    """A project that no other test has used."""
    return gateway.project(f"acme-{secrets.token_hex(4)}")
