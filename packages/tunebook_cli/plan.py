"""Commands for before a run: `tunebook advise`."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from tunebook_cli.spec_argument import OverridesOption, ProfileOption, SpecArgument, find_spec
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
