"""The `tunebook` command."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated

import typer

from tunebook_cli import data, plan, scenarios
from tunebook_cli.failure import StageFailed
from tunebook_cli.spec_argument import OverridesOption, ProfileOption, SpecArgument, find_spec
from tunebook_run import log
from tunebook_run.record import find_run
from tunebook_run.settings import Settings
from tunebook_run.store import Store
from tunebook_spec import Spec, load, load_gates
from tunebook_spec.errors import TunebookError
from tunebook_spec.schema import json_schema

logger = logging.getLogger(__name__)

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(data.app, name="data")
app.command()(plan.advise)
app.command()(plan.init)
app.command()(plan.pin)
app.command()(scenarios.scenarios)

RunArgument = Annotated[str, typer.Argument(help="medical, medical@latest or medical@3.", metavar="RUN")]

VERDICT_STATUS = {"pass": 0, "fail": 3, "inconclusive": 4}


@app.command()
def run(
    spec: SpecArgument,
    profile: ProfileOption = None,
    overrides: OverridesOption = None,
    until: Annotated[
        str | None, typer.Option(help="Stop after this stage, e.g. prepare.", metavar="STAGE")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Print the resolved spec and what would run.")] = False,
) -> None:
    """Take a spec from its sources to a verdict; what is already made is not made again.

    Exit status: 0 pass, or stopped where --until says; 1 a stage failed, 2 bad spec or usage, 3 a gate
    failed, 4 inconclusive, 130 interrupted.
    """
    from tunebook_cli import runner

    settings = Settings.read()
    loaded = load(find_spec(spec), profile=profile, overrides=overrides or [])
    if dry_run:
        typer.echo(runner.describe(loaded, settings))
        return
    try:
        record = runner.run(loaded, settings, until=until)
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on from here", err=True)
        raise typer.Exit(130) from None
    if record.status == "stopped":
        typer.echo(f"stopped after {until}, run {record.key}; without --until the same command goes on")
        return
    typer.echo("\n".join(record.verdict))
    raise typer.Exit(VERDICT_STATUS[record.status])


@app.command()
def decide(
    run: RunArgument,
    gates: Annotated[Path, typer.Option(help="YAML with `gates:` as in a spec.", metavar="FILE")],
    save: Annotated[
        bool, typer.Option("--save", help="Keep the verdict in the run's folder, as verdict-FILE.json.")
    ] = False,
) -> None:
    """Judge what a run has measured by other gates; no model is asked, and the run stays as it is.

    Exit status: 0 pass, 2 bad gates or usage, 3 a gate fails, 4 inconclusive.
    """
    from tunebook_eval.decide import decide as judge
    from tunebook_eval.decide import judged_arms
    from tunebook_eval.evaluate import read_report
    from tunebook_eval.inputs import DecideInputs
    from tunebook_eval.report import summary

    settings = Settings.read()
    store = Store(settings.storage_url, settings.cache_dir)
    record = find_run(store, run)
    report = read_report(store.download(record.stage("evaluate").key))
    bounds = DecideInputs.of(Spec.model_validate(record.spec)).bounds if report.judges else {}
    verdict = judge(report, load_gates(gates, judged_arms(report)), bounds)
    typer.echo(summary(verdict, report))
    if save:
        key = f"{record.key}/verdict-{gates.stem}.json"
        store.write(key, verdict.model_dump_json(indent=1).encode())
        typer.echo(f"kept as {key}", err=True)
    raise typer.Exit(verdict.exit_status)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a spec."""
    typer.echo(json.dumps(json_schema(), indent=2))


@app.command()
def clean(
    keep: Annotated[int, typer.Option(min=0, help="Newest runs of each scenario that stay whole.")] = 3,
    until: Annotated[
        str | None, typer.Option(help="Stop after this stage, e.g. prepare.", metavar="STAGE")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Only say what would go.")] = False,
) -> None:
    """Delete old runs, stages that no kept run points to, and tokens that no run has read for 30 days."""
    from tunebook_run.clean import TOKENS, plan_clean, unused_tokens
    from tunebook_run.clean import clean as delete

    settings = Settings.read()
    store = Store(settings.storage_url, settings.cache_dir)
    removals = plan_clean(store, keep=keep)
    for removal in removals:
        typer.echo(f"{removal.bytes / 2**20:8.1f} MiB  {removal.key}")
    tokens = unused_tokens(settings.cache_dir, keep=keep)
    num_bytes = sum(path.stat().st_size for path in tokens)
    if tokens:
        typer.echo(f"{num_bytes / 2**20:8.1f} MiB  {len(tokens)} file(s) of {settings.cache_dir / TOKENS}")
    if not dry_run:
        delete(store, removals)
        for path in tokens:
            path.unlink(missing_ok=True)
    total = num_bytes + sum(removal.bytes for removal in removals)
    places = len(removals) + bool(tokens)
    typer.echo(f"{'would free' if dry_run else 'freed'} {total / 2**20:.1f} MiB in {places} place(s)")


@app.command()
def serve(
    run: RunArgument,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
) -> None:
    """Serve a run's tuned model behind the OpenAI protocol."""
    from model_server.server import serve as start

    start(run, Settings.read(), host=host, port=port)


def main(arguments: list[str] | None = None) -> int:
    """Run the command, print errors of ours without a traceback, and return the exit status."""
    try:
        settings = Settings.read()
        log.configure(settings.log, settings.log_level)
        app(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except TunebookError as error:
        # A stage's process has already said what went wrong.
        if not isinstance(error, StageFailed):
            typer.echo(f"error: {error}", err=True)
        return error.exit_status
    return 0
