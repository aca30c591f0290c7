"""`tunebook keys`: who may use the fine-tuning service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from tunebook_run.settings import Settings
from tunebook_run.store import Store

if TYPE_CHECKING:
    from tunebook_jobs.database import Database

app = typer.Typer(no_args_is_help=True, help="API keys of the fine-tuning service.")


@app.command()
def create(
    project: Annotated[str, typer.Option(help="Whose files, jobs and models it opens.")] = "default",
) -> None:
    """Print a new key; it cannot be shown again."""
    from tunebook_jobs.keys import create_key

    with _database() as database:
        typer.echo(create_key(database, project))


@app.command("list")
def list_() -> None:
    """Show ids, projects and dates of keys; the keys themselves are not kept."""
    from tunebook_jobs.keys import list_keys

    with _database() as database:
        keys = list_keys(database)
    for key in keys:
        state = "in use" if key.revoked_at is None else f"revoked {_date(key.revoked_at)}"
        typer.echo(f"{key.id}  {key.project:<31}  created {_date(key.created_at)}  {state}")


@app.command()
def revoke(id: Annotated[str, typer.Argument(help="As `tunebook keys list` shows it.")]) -> None:
    """Let a key open nothing any more."""
    from tunebook_jobs.keys import revoke_key

    with _database() as database:
        revoke_key(database, id)
    typer.echo(f"revoked {id}")


@contextmanager
def _database() -> Iterator[Database]:
    from tunebook_jobs.database import open_database

    settings = Settings.read()
    database = open_database(settings, Store(settings.storage_url, settings.cache_dir))
    try:
        yield database
    finally:
        database.engine.dispose()


def _date(unix: int) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d")
