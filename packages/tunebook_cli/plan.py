"""Commands for before a run: `tunebook advise`, `init` and `pin`."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from tunebook_cli.spec_argument import SPECS, OverridesOption, ProfileOption, SpecArgument, find_spec
from tunebook_run.progress import progress
from tunebook_run.settings import Settings
from tunebook_spec import load


def advise(
    spec: SpecArgument,
    profile: ProfileOption = None,
    overrides: OverridesOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the advice as JSON.")] = False,
) -> None:
    """Prompting, retrieval or fine-tuning: what spec, data and, where there is one, a run's report say.

    No model is asked. Exit status: 0 whatever is advised, 2 bad spec or source.
    """
    from tunebook_cli.data import console
    from tunebook_data.fingerprint import refuse_problems
    from tunebook_plan.advise import advise as weigh
    from tunebook_plan.gather import find_prepared, gather
    from tunebook_plan.show import show

    settings = Settings.read()
    loaded = load(find_spec(spec), profile=profile, overrides=overrides or [])
    refuse_problems(loaded, assets_dir=settings.assets_dir)
    prepared = find_prepared(loaded, settings)
    with progress("check") as advance:
        facts = gather(loaded, settings, prepared=prepared, at_most_bytes=math.inf, advance=advance)
    advice = weigh(facts)
    if as_json:
        typer.echo(advice.model_dump_json(indent=1))
    else:
        show(advice, console(width=200))


def init(
    name: Annotated[str, typer.Argument(help="What the scenario is to be called.", metavar="NAME")],
    like: Annotated[str, typer.Option(help="A scenario that ships, to start from.", metavar="SCENARIO")],
    folder: Annotated[
        Path, typer.Option(help="Where NAME.yaml and data/NAME.jsonl go.", file_okay=False)
    ] = SPECS,
) -> None:
    """Begin a spec of one's own from a scenario that ships, with a few of its rows; nothing is overwritten.

    Exit status: 0 written, 2 the name is taken or no name, or no such scenario ships.
    """
    from tunebook_plan.new_spec import new_spec

    spec, rows = new_spec(name, like, folder, Settings.read().assets_dir)
    given = name if folder == SPECS else spec
    typer.echo(f"{spec}: the spec; its first lines say what to put in")
    typer.echo(f"{rows}: rows of {like}, to put your own in place of")
    typer.echo(f"then: tunebook data check {given} --profile local")


def pin(spec: SpecArgument) -> None:
    """Write the commit that the hub has now into a spec, for every hub model; all else stays as it is.

    It asks the hub: set TUNEBOOK_HUB_ONLINE=true, and TUNEBOOK_HF_TOKEN for gated models.

    Exit status: 0 pinned, 2 bad spec, or the hub does not answer; then nothing is written.
    """
    from tunebook_model.hub import commit_of
    from tunebook_plan.pin import pin as write

    settings = Settings.read()
    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    path = find_spec(spec)
    pins = write(path, partial(commit_of, online=settings.hub_online, token=token))
    for each in pins:
        told = f"{each.before} -> {each.commit}" if each.is_new else f"is at {each.commit} already"
        typer.echo(f"{path}:{each.line}: {each.where}: {each.repo} {told}")
    if not pins:
        typer.echo(f"{path}: names no hub model")
