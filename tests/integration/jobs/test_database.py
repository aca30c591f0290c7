from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import select

from tests.integration.jobs.test_queue import add_job
from tunebook_jobs import migrations
from tunebook_jobs.database import Database, connect
from tunebook_jobs.events import NewEvent, add_event
from tunebook_jobs.tables import AuditEntry, Base, Event, Job
from tunebook_spec.errors import SettingsError


def test_the_migrations_make_the_tables_that_the_code_knows(database: Database) -> None:
    # SQLite holds a text of any length in any column, so none is altered there.
    options = {"compare_type": database.engine.dialect.name != "sqlite"}
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Base.metadata) == []


def test_a_database_of_an_older_schema_keeps_what_it_holds(database: Database) -> None:
    url = database.engine.url.render_as_string(hide_password=False)
    with database.engine.execution_options(writes=True).begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(Path(migrations.__file__).parent))
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
    add_job(database, "ftjob-a")
    with database.write() as session:
        add_event(session, "ftjob-a", NewEvent("Fine-tuning job started"))
    again = connect(url)
    with again.write() as session:
        assert session.scalar(select(Event.message)) == "Fine-tuning job started"
        session.scalars(select(Job)).one().model = "m" * 255
    again.engine.dispose()


def test_a_database_of_a_newer_schema_is_refused(database: Database) -> None:
    with database.engine.execution_options(writes=True).begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SettingsError, match="newer than this version of tunebook"):
        connect(database.engine.url.render_as_string(hide_password=False))


def test_a_database_that_is_there_is_opened_again(database: Database) -> None:
    with database.write() as session:
        session.add(AuditEntry(at=1.5, action="a", status=200))
    again = connect(database.engine.url.render_as_string(hide_password=False))
    with again.read() as session:
        assert session.scalar(select(AuditEntry.at)) == 1.5
    again.engine.dispose()


def test_what_raises_leaves_nothing(database: Database) -> None:
    def add_and_fail() -> None:
        with database.write() as session:
            session.add(AuditEntry(at=1.5, action="a", status=200))
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        add_and_fail()
    with database.read() as session:
        assert session.scalar(select(AuditEntry.at)) is None


def test_many_write_at_once_and_none_fails(database: Database) -> None:
    def write(number: int) -> None:
        with database.write() as session:
            session.scalar(select(AuditEntry.at).limit(1))
            session.add(AuditEntry(at=number, action="a", status=200))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(80)))
    with database.read() as session:
        assert sorted(session.scalars(select(AuditEntry.at))) == list(range(80))


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("no url", "a text that is no URL"),
        ("oracle9://a:secret@b/c", "oracle9://a:***@b/c"),
        ("postgresql+psycopg://a:secret@127.0.0.1:9/c", "postgresql+psycopg://a:***@127.0.0.1:9/c"),
        ("sqlite:////no/such/folder/a.sqlite", "unable to open database file"),
    ],
)
def test_a_url_that_cannot_be_used_is_told_without_its_password(url: str, told: str) -> None:
    with pytest.raises(SettingsError, match="TUNEBOOK_GATEWAY__DATABASE_URL") as caught:
        connect(url)
    assert told in str(caught.value)
    assert "secret" not in str(caught.value)


def test_sqlite_writes_ahead(tmp_path: Path) -> None:
    database = connect(f"sqlite:///{tmp_path / 'a.sqlite'}")
    with database.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    database.engine.dispose()
