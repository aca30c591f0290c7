"""A data set made of what lies in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunebook_data.inputs import PrepareInputs
from tunebook_data.manifest import DatasetManifest
from tunebook_data.prepare import prepare
from tunebook_spec.data import Data

NOTHING: Mapping[str, Any] = {
    "seed": 0,
    "chat_template_kwargs": {},
    "suites": (),
    "questions": (),
    "texts": (),
}


def prepared(
    folder: Path,
    model_dir: Path,
    data: Mapping[str, Any],
    *,
    out: str = "out",
    inputs: Mapping[str, Any] = NOTHING,
    **more: Any,
) -> DatasetManifest:
    """Prepare the data of a spec in the folder, into a new folder in it.

    Args:
        folder: of the spec.
        model_dir: the base model.
        data: of the spec.
        out: names the new folder.
        inputs: the other fields of `PrepareInputs`; those left out are as in `NOTHING`.
        more: other arguments of `prepare`.
    """
    (folder / out).mkdir()
    return prepare(
        PrepareInputs(data=Data.model_validate(data), **{**NOTHING, **inputs}),
        model_dir=model_dir,
        spec_dir=folder,
        assets_dir=folder,
        out=folder / out,
        advance=lambda done, total, note="": None,
        **{"replay_dir": None, **more},
    )
