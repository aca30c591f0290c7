"""The `tunebook scenarios` command: several specs, one after another."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunebook_cli.spec_argument import SPECS, ProfileOption
from tunebook_run.record import find_run, numbers
from tunebook_run.settings import Settings
from tunebook_run.store import Store
from tunebook_spec import load
from tunebook_spec.errors import InputError, SpecError

if TYPE_CHECKING:
    from tunebook_plan.scenarios import ScenarioRow

INTERRUPTED = 130


def scenarios(
    folder: Annotated[
        Path, typer.Argument(help="Whose specs are run.", metavar="FOLDER", file_okay=False)
    ] = SPECS,
    profile: ProfileOption = None,
) -> None:
    """Run all specs of a folder, one after another, and print one table; one that fails stops no other.

    Exit status: 0 if all pass, else the least of what the runs ended with: 1 a stage failed, 2 bad spec, 3 a
    gate failed, 4 inconclusive; 130 interrupted.
    """
    from tunebook_cli.data import console
    from tunebook_plan.scenarios import table

    settings = Settings.read()
    specs = sorted(folder.glob("*.yaml"))
    if not specs:
        raise InputError(f"{folder}: holds no spec (*.yaml); run from the folder that holds specs/")
    rows, statuses = [], []
    for path in specs:
        status, row = _run(path, profile, settings)
        if status == INTERRUPTED:
            raise typer.Exit(INTERRUPTED)
        rows.append(row)
        statuses.append(status)
    console(width=200).print(table(rows))
    raise typer.Exit(min((status for status in statuses if status), default=0))


def _run(path: Path, profile: str | None, settings: Settings) -> tuple[int, ScenarioRow]:
    """A run in a process of its own, which gives all memory back; its exit status, and what it came to."""
    from tunebook_plan.scenarios import ScenarioRow, scenario_row

    store = Store(settings.storage_url, settings.cache_dir)
    try:
        name = load(path, profile=profile).spec.name
    except SpecError as error:
        typer.echo(f"error: {error}", err=True)
        return error.exit_status, ScenarioRow(scenario=path.stem, verdict="bad spec")
    before = numbers(store, name)
    command = [sys.executable, "-m", "tunebook_cli", "run", str(path)]
    try:
        status = subprocess.run([*command, *(["--profile", profile] if profile else [])]).returncode
    except KeyboardInterrupt:
        status = INTERRUPTED
    if numbers(store, name) == before:
        return status or 1, ScenarioRow(scenario=name, verdict="not begun")
    return status, scenario_row(find_run(store, name), store)
