from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from tests.gateway_client import Gateway, Project, open_gateway


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with open_gateway(tmp_path_factory.mktemp("gateway")) as made:
        yield made


@pytest.fixture
def acme(gateway: Gateway) -> Project:
    """A project that no other test has used."""
    return gateway.project(f"acme-{secrets.token_hex(4)}")
