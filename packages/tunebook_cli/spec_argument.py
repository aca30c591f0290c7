"""How commands are given a spec."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated

import typer

from tunebook_spec.errors import InputError

SPECS = Path("specs")

SpecArgument = Annotated[
    str, typer.Argument(help="A spec file, or the name of one in specs/.", metavar="SPEC")
]
ProfileOption = Annotated[str | None, typer.Option(help="Overlay of the spec to apply.")]
OverridesOption = Annotated[
    list[str] | None, typer.Option("--set", help="FIELD=VALUE, after the profile.", metavar="FIELD=VALUE")
]


def find_spec(name: str) -> Path:
    """The file of a spec given as a path or as a name in specs/.

    Raises:
        InputError: lists what there is.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return path
    named = SPECS / f"{name}.yaml"
    if name and named.exists():
        return named
    known = sorted(file.stem for file in SPECS.glob("*.yaml"))
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(known) or "none (run from the folder that holds specs/)"
    raise InputError(f"no spec {name!r}{hint}; there are: {listed}")
