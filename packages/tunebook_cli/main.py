"""The `tunebook` command."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from tunebook_cli import data, keys, plan, runs, scenarios, top
from tunebook_cli.failure import StageFailed
from tunebook_cli.runs import RunArgument
from tunebook_cli.spec_argument import OverridesOption, ProfileOption, SpecArgument, find_spec
from tunebook_run import log
from tunebook_run.record import find_run
from tunebook_run.settings import Settings, misspelt
from tunebook_run.store import Store
from tunebook_spec import LoadedSpec, load, load_gates
from tunebook_spec.errors import InputError, TunebookError
from tunebook_spec.schema import json_schema

if TYPE_CHECKING:
    from tunebook_inference.served import Served

logger = logging.getLogger(__name__)

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(data.app, name="data")
app.add_typer(keys.app, name="keys")
COMMANDS: tuple[Callable[..., None], ...] = (
    *(plan.advise, plan.init, plan.pin, scenarios.scenarios),
    *(runs.runs, runs.verify, runs.compare, top.top),
)
for command in COMMANDS:
    app.command()(command)

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
    address: Annotated[
        str | None,
        typer.Option(help="Run it as a job of the Ray cluster whose dashboard is there.", metavar="URL"),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Submit the job, and do not follow it.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Stop the job of this command.")] = False,
) -> None:
    """Take a spec from its sources to a verdict; what is already made is not made again.

    With --address, a Ray cluster does it: the spec, the files that it names, our code and settings are sent
    there, and the job's log is printed. Ctrl-C leaves the job alone. The same command finds a job that is
    under way and follows it again.

    Exit status: 0 pass, or stopped where --until says; 1 a stage failed, 2 bad spec or usage, 3 a gate
    failed, 4 inconclusive, 130 interrupted.
    """
    if address is None and (detach or cancel):
        raise InputError("--detach and --cancel are about a job: name its cluster by --address")
    if detach and cancel:
        raise InputError("--detach begins a job and --cancel stops it: leave out one")
    settings = Settings.read()
    loaded = load(find_spec(spec), profile=profile, overrides=overrides or [])
    if address is not None:
        from tunebook_cli.submission import Submission

        options = [*(("--until", until) if until else ()), *(("--dry-run",) if dry_run else ())]
        submission = Submission(loaded, settings, address, overrides or [], options)
        if cancel:
            submission.cancel()
            return
        raise typer.Exit(submission.run(detach=detach))
    if dry_run:
        from tunebook_cli.planning import describe

        typer.echo(describe(loaded, settings, until))
        return
    _run(loaded, settings, until=until)


@app.command("eval")
def evaluate(
    spec: SpecArgument,
    endpoint: Annotated[
        str | None, typer.Option(help="Base URL of the OpenAI protocol.", metavar="URL")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Name that it is served under.", metavar="NAME")] = None,
    from_log: Annotated[
        Path | None, typer.Option(help="Score what a server has logged instead.", metavar="FILE")
    ] = None,
    log_set: Annotated[
        str | None, typer.Option(help="Set of logged questions that are no test rows.", metavar="SET")
    ] = None,
    profile: ProfileOption = None,
    overrides: OverridesOption = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Most requests under way at once.", metavar="N")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Tells models apart that bear one name, one after the other.")
    ] = None,
) -> None:
    """Evaluate a served model as a spec's tuned one: the same prompts, report and verdict, nothing trained.

    With --from-log, score answers that a server has logged; that has no verdict.

    Exit status: as for run; 0 for a log.
    """
    from tunebook_cli.logged import score_log_file
    from tunebook_inference.find_served import find_served
    from tunebook_inference.served import ROLE

    asks = {"endpoint": endpoint, "model": model, "concurrency": concurrency, "revision": revision}
    if from_log is not None and (given := [name for name, value in asks.items() if value is not None]):
        raise InputError(f"--from-log asks no model: leave out --{', --'.join(given)}")
    if from_log is None and log_set is not None:
        raise InputError("--log-set is of a log: give its file with --from-log")
    settings = Settings.read()
    loaded = load(find_spec(spec), profile=profile, overrides=overrides or [])
    if from_log is not None:
        typer.echo(score_log_file(loaded, settings, from_log, log_set))
        return
    if endpoint is None or model is None:
        raise InputError("eval needs --endpoint and --model, or --from-log")
    of_role = settings.of_model(ROLE)
    served = find_served(endpoint, model, of_role, concurrency=concurrency, revision=revision)
    _run(loaded, settings, served=served)


def _run(
    loaded: LoadedSpec, settings: Settings, *, until: str | None = None, served: Served | None = None
) -> NoReturn:
    """Make what is missing, say what it has come to, and exit."""
    from tunebook_cli import runner

    try:
        record = runner.run(loaded, settings, until=until, served=served)
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on from here", err=True)
        raise typer.Exit(130) from None
    if record.status == "stopped":
        typer.echo(f"stopped after {until}, run {record.key}; without --until the same command goes on")
        raise typer.Exit
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
    bounds = DecideInputs.of(record.read_spec()).bounds if report.judges else {}
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
    runs: Annotated[
        list[str] | None,
        typer.Argument(help="medical, medical@latest, medical@3; none: the service.", metavar="[RUN]..."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    traffic: Annotated[
        Path | None, typer.Option(help="YAML with `split`, `shadow` and `log`.", metavar="FILE")
    ] = None,
    replicas: Annotated[
        int | None, typer.Option(help="Of each model, on a Ray cluster; else 1.", metavar="N", min=1)
    ] = None,
) -> None:
    """Serve the tuned models of runs behind the OpenAI protocol, each by the name of its run.

    With TUNEBOOK_RAY_ADDRESS they are a Ray Serve application of that cluster, for as long as the command
    runs.

    Without a run: the fine-tuning protocol, by gateway, worker and model server on this machine, until it is
    interrupted.
    """
    if not runs:
        from tunebook_cli.service import serve as start_service

        if traffic is not None:
            raise InputError("--traffic shares requests out among runs: name them")
        if replicas is not None:
            raise InputError("--replicas are of the models of runs: name them")
        start_service(Settings.read(), host=host, port=port)
        return
    settings = Settings.read()
    if settings.ray_address is not None:
        if traffic is not None:
            raise InputError(
                "--traffic: on a Ray cluster no requests are split, shadowed or logged, for no one process"
                " sees them all; unset TUNEBOOK_RAY_ADDRESS to serve on this machine"
            )
        from tunebook_inference.vllm_engine import import_vllm

        import_vllm()  # which says what is missing, where it is not installed
        from model_server.ray_serve import serve_on_cluster

        address = settings.ray_address
        serve_on_cluster(runs, settings, address, host=host, port=port, num_replicas=replicas or 1)
        return
    if replicas is not None:
        raise InputError("--replicas are of a Ray cluster: set TUNEBOOK_RAY_ADDRESS")
    from model_server.server import serve as start

    start(runs, settings, host=host, port=port, traffic_file=traffic)


def main(arguments: list[str] | None = None) -> int:
    """Run the command, print errors of ours without a traceback, and return the exit status."""
    try:
        settings = Settings.read()
        log.configure(settings.log, settings.log_level)
        for name, near in misspelt():
            logger.warning("%s is no setting and is not read; did you mean %s?", name, near)
        app(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except TunebookError as error:
        # A stage's process has already said what went wrong.
        if not isinstance(error, StageFailed):
            typer.echo(f"error: {error}", err=True)
        return error.exit_status
    return 0
