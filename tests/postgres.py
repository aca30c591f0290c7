"""A Postgres of one's own, from the programs that are installed."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tunebook_jobs.database import Database

USER = "tunebook"


def _binaries() -> Path | None:
    """Where Postgres is installed; Debian keeps all but the client out of the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).resolve().parent if on_path else None


@contextmanager
def postgres(*, password: str | None = None, port: int | None = None) -> Iterator[Path]:
    """Runs while `with` lasts; the folder of its socket.

    Args:
        password: of its user, who is asked for none if it is None.
        port: of this machine that it listens on too.
    """
    pytest.importorskip("psycopg")
    binaries = _binaries()
    if binaries is None:
        pytest.skip("no Postgres is installed")
    # Not under pytest's folder, which is closed to others, nor under a long name, which no socket can have.
    with tempfile.TemporaryDirectory(prefix="tunebook-pg-") as folder:
        yield from _running(binaries, Path(folder), password, port)


def _running(binaries: Path, folder: Path, password: str | None, port: int | None) -> Iterator[Path]:
    user = {}
    if os.geteuid() == 0:  # as which Postgres does not run
        account = pwd.getpwnam("nobody")
        user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        os.chown(folder, account.pw_uid, account.pw_gid)

    def run(*command: str) -> None:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, **user)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stderr

    data, secret = str(folder / "data"), folder / "password"
    secret.write_text(f"{password}\n")
    access = ("-A", "trust") if password is None else ("-A", "scram-sha-256", "--pwfile", str(secret))
    run(str(binaries / "initdb"), "-D", data, "-U", USER, "--no-sync", *access)
    listen = "''" if port is None else f"127.0.0.1 -c port={port}"
    options = f"-c listen_addresses={listen} -c unix_socket_directories='{folder}' -c fsync=off"
    pg_ctl = str(binaries / "pg_ctl")
    run(pg_ctl, "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")
    try:
        yield folder
    finally:
        run(pg_ctl, "-D", data, "-m", "immediate", "stop")


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    with postgres() as folder:
        yield f"postgresql+psycopg://{USER}@/postgres?host={folder}"


def empty(database: Database) -> None:
    """For the next test."""
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
