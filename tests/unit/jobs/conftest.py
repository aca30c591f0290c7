from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres import USER, postgres
from tunebook_jobs.database import Database, connect


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    with postgres() as folder:
        yield f"postgresql+psycopg://{USER}@/postgres?host={folder}"


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database of either kind, its schema brought up by alembic."""
    if request.param == "sqlite":
        made = connect(f"sqlite:///{tmp_path / 'gateway.sqlite'}")
    else:
        made = connect(request.getfixturevalue("postgres_url"))
    yield made
    if request.param == "postgres":
        with made.engine.begin() as connection:
            connection.exec_driver_sql("DROP SCHEMA public CASCADE")
            connection.exec_driver_sql("CREATE SCHEMA public")
    made.engine.dispose()
