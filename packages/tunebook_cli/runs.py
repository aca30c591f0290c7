"""Commands about runs that are done: list them, verify one, compare two."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

from tunebook_cli.spec_argument import SPECS
from tunebook_run.record import RunRecord, all_records, find_run
from tunebook_run.settings import Settings
from tunebook_run.stages import Artifact, read_artifact
from tunebook_run.store import Store
from tunebook_run.table import add_row, lines, new_table
from tunebook_run.verify import Finding, Verification, compare_inputs, verify_stages
from tunebook_spec import LoadedSpec, Spec
from tunebook_spec.errors import InputError, TunebookError

if TYPE_CHECKING:
    from tunebook_eval.compare import RunEvidence
    from tunebook_inference.served import Served

RunArgument = Annotated[str, typer.Argument(help="medical, medical@latest or medical@3.", metavar="RUN")]
COLUMNS = ("run", "started (UTC)", "took", "verdict", "headline metric", "profile", "seed", "commit")


def runs(
    scenario: Annotated[str | None, typer.Argument(help="Only this scenario's.", metavar="SCENARIO")] = None,
) -> None:
    """List the runs of the store, by scenario, oldest first."""
    from tunebook_eval.headline import Headlines

    settings = Settings.read()
    store = Store(settings.storage_url, settings.cache_dir)
    headlines = Headlines(store)
    table = new_table(*COLUMNS)
    found = [each for each in all_records(store) if scenario in (None, each.scenario)]
    if not found:
        of_scenario = f" of {scenario!r}" if scenario else ""
        raise InputError(f"no run{of_scenario} under {store.url}; make one: tunebook run SPEC")
    for each in found:
        add_row(
            table,
            (
                each.name,
                f"{each.started_at:%Y-%m-%d %H:%M}",
                _took(each),
                each.status,
                headlines.of(each),
                each.profile or "-",
                str(each.seed),
                (each.git_commit or "-")[:10],
            ),
        )
    typer.echo("\n".join(lines(table)))


def _took(record: RunRecord) -> str:
    if record.finished_at is None:
        return "-"
    return str(timedelta(seconds=round((record.finished_at - record.started_at).total_seconds())))


def verify(
    run: RunArgument,
    spec_dir: Annotated[
        Path, typer.Option(help="Folder that the spec's paths are relative to.", metavar="FOLDER")
    ] = SPECS,
) -> None:
    """Compute every digest of a run again, from its sources to its verdict, and say what does not agree.

    Exit status: 0 all agrees, 1 something does not, 2 bad usage.
    """
    from tunebook_data.manifest import CARD_PAGE
    from tunebook_eval.verdict import PAGES

    settings = Settings.read()
    store = Store(settings.storage_url, settings.cache_dir)
    record = find_run(store, run)
    if not record.stages:
        raise InputError(f"run {record.name} has no finished stage, so there is nothing to verify")
    found = verify_stages(store, record, {**dict.fromkeys(PAGES, "decide"), CARD_PAGE: "prepare"})
    found.disagreements += _inputs(found, record, settings, spec_dir)
    found.disagreements += _verdict(found, record, store)
    for note in found.notes:
        typer.echo(f"note            {note}")
    for each in found.disagreements:
        typer.echo(f"does not agree  {each}")
    counted = f"{found.num_files} files of {len(record.stages)} stages"
    count = len(found.disagreements)
    told = f"{count} do{'es' if count == 1 else ''} not agree" if count else "all agrees"
    typer.echo(f"{record.name}: {counted}, their inputs and the verdict: {told}")
    raise typer.Exit(1 if count else 0)


def _inputs(found: Verification, record: RunRecord, settings: Settings, spec_dir: Path) -> Iterator[Finding]:
    """What the run was made from, against what its spec would be made from now."""
    from tunebook_cli.graph import read_fields
    from tunebook_cli.planning import plan
    from tunebook_eval.verified import record_findings
    from tunebook_model.digests import model_digest

    path = spec_dir / f"{record.scenario}.yaml"
    try:
        spec = Spec.model_validate(record.spec)
        yield from record_findings(record, spec)
        planned = plan(LoadedSpec(spec, path, record.profile, {}), settings, _served(record))
    except ValidationError as error:
        first = error.errors()[0]
        told = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        yield Finding("run.json: spec", f"is no spec of this version of Tunebook ({told})")
        return
    except TunebookError as error:
        yield Finding("run.json: spec", f"its inputs cannot be found again: {error}")
        return
    compare_inputs(found, planned.stages, read_fields)
    model = planned.model
    with tempfile.TemporaryDirectory() as nothing_kept:
        if model_digest(model.path, Path(nothing_kept)) != model.digest:
            where = f"base model {model.name}"
            yield Finding(where, f"a file in {model.path} was changed, and its time and size were not")


def _served(record: RunRecord) -> Served | None:
    """As the run knew it: what an endpoint serves now is another matter."""
    from tunebook_inference.served import Served

    if record.served is None:
        return None
    return Served(base_url="", model=record.served.model, who=record.served.who)


def _verdict(found: Verification, record: RunRecord, store: Store) -> Iterator[Finding]:
    """Judged again, where what it is judged by is sound."""
    from tunebook_eval.evidence import REPORT, EvalReport
    from tunebook_eval.verified import verdict_findings

    decided = found.artifacts.get("decide")
    if decided is not None and found.agrees("evaluate"):
        try:
            report = EvalReport.model_validate_json(store.read(f"{record.stage('evaluate').key}/{REPORT}"))
        except ValidationError:
            yield Finding(f"evaluate: {REPORT}", "is no report of this version of Tunebook")
            return
        yield from verdict_findings(record, decided, report)


def compare(
    one: RunArgument, other: Annotated[str, typer.Argument(help="Another run.", metavar="RUN")]
) -> None:
    """Say what differs between two runs in spec, data and versions, and hold their metrics side by side.

    Differences are the second run's metrics minus the first's, where both are defined alike and over the
    same test rows; else it says what differs, and the means stand alone.
    """
    from tunebook_eval.compare import compare as hold_against
    from tunebook_eval.compare import describe

    settings = Settings.read()
    store = Store(settings.storage_url, settings.cache_dir)
    evidence = [_evidence(store, find_run(store, name)) for name in (one, other)]
    typer.echo(describe(hold_against(*evidence)))


def _evidence(store: Store, record: RunRecord) -> RunEvidence:
    from tunebook_eval.answers import FILE, read_answers
    from tunebook_eval.compare import RunEvidence
    from tunebook_eval.evaluate import read_report

    def artifact(name: str) -> Artifact:
        found = read_artifact(store, record.stage(name).key)
        if found is None:
            raise InputError(f"{name} of run {record.name} is cleaned away; run its spec again")
        return found

    prepared, evaluated, answered = map(artifact, ("prepare", "evaluate", "answer-tuned"))
    report = read_report(store.download(record.stage("evaluate").key))
    opponents = {each.against for each in report.judges if each.against is not None}
    for arm in opponents:
        artifact(f"answer-{arm}")
    answers = {
        arm: read_answers(store.download(record.stage(f"answer-{arm}").key) / FILE)
        for arm in ("tuned", *sorted(opponents))
    }
    return RunEvidence(record, prepared, evaluated, answered, report, answers)
