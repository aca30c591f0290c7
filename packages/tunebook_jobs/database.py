"""The database: SQLite in WAL mode on one machine, Postgres by URL; its schema is alembic's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.orm import Session, sessionmaker

from tunebook_run.settings import Settings
from tunebook_run.store import Store
from tunebook_spec.errors import SettingsError

FOLDER = "gateway"
"""In the store, of files; in its local folder, of the database too."""
_BUSY_S = 30.0
"""How long a writer of SQLite waits for another."""
_MIGRATIONS_LOCK = 0x7EBB00
"""Of Postgres, so that of several services that start at once, one brings the schema up."""


class Database:
    """Sessions whose transaction is committed at the end of `with`, and rolled back where that raises."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.read = sessionmaker(engine, expire_on_commit=False).begin
        self._write = sessionmaker(engine.execution_options(writes=True), expire_on_commit=False).begin
        # SQLite has one writer, and lets those that wait poll for their turn, some of them for long.
        self._turn = threading.Lock() if engine.dialect.name == "sqlite" else nullcontext()

    @contextmanager
    def write(self) -> Iterator[Session]:
        with self._turn, self._write() as session:
            yield session


def open_database(settings: Settings, store: Store) -> Database:
    """Connect, and bring the schema up to date.

    Raises:
        SettingsError: the URL cannot be used, or nothing answers there.
    """
    url = settings.gateway.database_url
    if url is None:
        folder = (store.local_root or settings.cache_dir) / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        return connect(f"sqlite:///{folder / 'gateway.sqlite'}")
    return connect(url.get_secret_value())


def connect(url: str) -> Database:
    """As `open_database`, with the URL given."""
    try:
        made = make_url(url)
        engine = _engine(url)
        with engine.execution_options(writes=True).begin() as connection:
            _migrate(connection)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError, DBAPIError) as error:
        shown = made.render_as_string(hide_password=True) if "made" in locals() else "a text that is no URL"
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        if isinstance(error, ArgumentError):
            reason = "it is not of the form dialect+driver://user:password@host/database"
        raise SettingsError(f"TUNEBOOK_GATEWAY__DATABASE_URL ({shown}) cannot be used: {reason}") from None
    except CommandError as error:
        engine.dispose()
        told = "its schema is newer than this version of tunebook, or another program's"
        raise SettingsError(
            f"the database {made.render_as_string()} cannot be used: {told} ({error})"
        ) from None
    return Database(engine)


def _engine(url: str) -> Engine:
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True)
    engine = create_engine(url, connect_args={"timeout": _BUSY_S})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")
        connection.isolation_level = None  # SQLAlchemy begins transactions itself, below

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that reads and then writes would fail at once where another has written meanwhile.
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _migrate(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATIONS_LOCK})")
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
