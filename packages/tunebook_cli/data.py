"""The `tunebook data` commands: look at a spec's data, or write a file's rows in another format."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from tunebook_cli.spec_argument import OverridesOption, ProfileOption, SpecArgument, find_spec
from tunebook_run.progress import progress
from tunebook_run.settings import Settings
from tunebook_spec import LoadedSpec, load
from tunebook_spec.errors import InputError

if TYPE_CHECKING:
    from tunebook_data.assemble import Assembled

app = typer.Typer(no_args_is_help=True, help="Look at a spec's data, or convert a file of rows.")

_PIPE_WIDTH = 110


@app.command()
def check(spec: SpecArgument, profile: ProfileOption = None, overrides: OverridesOption = None) -> None:
    """Read a spec's sources and run every check that needs no model.

    Exit status: 0 fine, 1 the split leaks, 2 bad spec or source.
    """
    from tunebook_data.terminal import show_check

    loaded, settings = _load(spec, profile, overrides)
    show_check(_assemble(loaded, settings), loaded.spec.data, console())


@app.command()
def preview(
    spec: SpecArgument,
    rows: Annotated[int, typer.Option(min=1, help="How many, of every task in turn.")] = 3,
    profile: ProfileOption = None,
    overrides: OverridesOption = None,
) -> None:
    """Show training rows as training will see them, with their supervised tokens in colour or in [[ ]].

    Rows with personal data are not shown.

    Exit status: 0 fine, 1 the split leaks, 2 bad spec, source or model.
    """
    from tunebook_cli.planning import base_model
    from tunebook_data.shown_rows import preview as shown
    from tunebook_data.terminal import show_row
    from tunebook_model.render import Renderer

    loaded, settings = _load(spec, profile, overrides)
    model = base_model(loaded, settings)
    renderer = Renderer.load(model.path, loaded.spec.base_model.chat_template_kwargs)
    out, data = console(), loaded.spec.data
    train = _assemble(loaded, settings).stored_splits()["train"]
    found = list(shown(train, rows, renderer, data.checks))
    for each in found:
        show_row(each, out)
    rehearsed = "; rehearsed ones are made in a run" if data.replay else ""
    written = "; those by a teacher are made in a run" if data.augment or data.distill else ""
    judged = "; a judge drops some in a run" if data.quality else ""
    num_shown = sum(not each.is_rejected for each in found)
    told = f"{num_shown} of {len(train)} training rows, as {model.name} reads them"
    told += f"{rehearsed}{written}{judged}"
    typer.echo(told, err=True)


@app.command()
def convert(
    file: Annotated[str, typer.Argument(help="A file, glob, folder or URL, as in a spec.", metavar="FILE")],
    to: Annotated[Literal["messages"], typer.Option(help="The format to write.")],
    out: Annotated[
        Path | None, typer.Option(help="A new file; none: standard output.", dir_okay=False)
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace the file if it is there.")] = False,
    keep_fields: Annotated[
        bool, typer.Option(help="Write the other fields of a row beside messages.")
    ] = False,
) -> None:
    """Write the rows of a file in any known format as OpenAI's messages, a JSON object a line.

    Rows that cannot be read are listed on standard error, the others are written.

    Exit status: 0 all rows were read, 2 a row or the file was not.
    """
    from tunebook_data.convert import convert as write
    from tunebook_data.convert import new_file

    def tell(reject: object) -> None:
        typer.echo(f"reject  {reject}", err=True)

    target = new_file(out, force=force) if out else nullcontext(sys.stdout.buffer)
    with target as stream:
        done = write(file, stream, keep_fields=keep_fields, tell=tell)
    typer.echo(done.summary(), err=True)
    if done.rejects:
        raise typer.Exit(InputError.exit_status)


def _load(spec: str, profile: str | None, overrides: list[str] | None) -> tuple[LoadedSpec, Settings]:
    """Raises SpecError with what only a look at this machine can tell, too."""
    from tunebook_data.fingerprint import refuse_problems

    settings = Settings.read()
    loaded = load(find_spec(spec), profile=profile, overrides=overrides or [])
    refuse_problems(loaded, assets_dir=settings.assets_dir)
    return loaded, settings


def _assemble(loaded: LoadedSpec, settings: Settings) -> Assembled:
    from tunebook_data.assemble import assemble
    from tunebook_data.inputs import PrepareInputs

    with progress("check") as advance:
        return assemble(
            PrepareInputs.of(loaded.spec),
            renderer=None,
            spec_dir=loaded.path.parent,
            assets_dir=settings.assets_dir,
            advance=advance,
        )


def console(width: int = _PIPE_WIDTH) -> Console:
    """Standard output; what goes into a pipe is not broken at the width of a terminal, but at this one."""
    made = Console(markup=False, emoji=False, highlight=False)
    if not made.is_terminal:
        made.width = width
    return made
