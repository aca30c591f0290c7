"""The `tunebook data` commands: look at a spec's data, or write a file's rows in another format."""

from __future__ import annotations

import typer
from rich.console import Console

from tunebook_cli.spec_argument import OverridesOption, ProfileOption, SpecArgument, find_spec
from tunebook_run.progress import progress
from tunebook_run.settings import Settings
from tunebook_spec import load

app = typer.Typer(no_args_is_help=True, help="Look at a spec's data, or convert a file of rows.")

_PIPE_WIDTH = 110


@app.command()
def check(spec: SpecArgument, profile: ProfileOption = None, overrides: OverridesOption = None) -> None:
    """Read a spec's sources and run every check that needs no model.

    Exit status: 0 fine, 1 the split leaks, 2 bad spec or source.
    """
    from tunebook_data.assemble import assemble
    from tunebook_data.fingerprint import refuse_problems
    from tunebook_data.inputs import PrepareInputs
    from tunebook_data.terminal import show_check

    settings = Settings.read()
    loaded = load(find_spec(spec), profile=profile, overrides=overrides or [])
    refuse_problems(loaded, assets_dir=settings.assets_dir)
    with progress("check") as advance:
        made = assemble(
            PrepareInputs.of(loaded.spec),
            renderer=None,
            spec_dir=loaded.path.parent,
            assets_dir=settings.assets_dir,
            advance=advance,
        )
    show_check(made, loaded.spec.data, _console())


def _console() -> Console:
    """Standard output; what goes into a pipe is not broken at the width of a terminal."""
    console = Console(markup=False, emoji=False, highlight=False)
    return (
        console
        if console.is_terminal
        else Console(markup=False, emoji=False, highlight=False, width=_PIPE_WIDTH)
    )
