"""The scenarios that ship, wherever this package is."""

from __future__ import annotations

import difflib
from importlib.resources import files
from pathlib import Path

from tunebook_spec.errors import InputError


def shipped_folder() -> Path:
    """The folder of their specs: in an installed package beside this module, else that of the repository."""
    installed = Path(str(files("tunebook_plan"))) / "specs"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "specs"


def shipped_spec(name: str) -> Path:
    """The spec of a scenario that ships.

    Raises:
        InputError: lists what there is.
    """
    path = shipped_folder() / f"{name}.yaml"
    known = sorted(file.stem for file in shipped_folder().glob("*.yaml"))
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"--like {name}: no scenario of that name ships{hint}; there are: {', '.join(known)}"
        )
    return path
