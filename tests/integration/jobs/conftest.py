from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import postgres
from tunebook_jobs.database import Database, connect


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database of either kind, its schema brought up by alembic."""
    if request.param == "sqlite":
        made = connect(f"sqlite:///{tmp_path / 'gateway.sqlite'}")
    else:
        made = connect(request.getfixturevalue("postgres_url"))
    yield made
    if request.param == "postgres":
        postgres.empty(made)
    made.engine.dispose()
