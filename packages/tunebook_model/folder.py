"""A model folder in Hugging Face layout: what must be in it, and what it says about stopping."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tunebook_spec.errors import ModelError

RENDERING_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
"""Patterns of the files that decide which tokens a chat is, and where an answer ends."""
BEHAVIOUR_FILES = (*RENDERING_FILES, "*.safetensors", "*.safetensors.index.json")
"""Patterns of the files that decide what a model answers."""


def check_layout(path: Path) -> None:
    """Refuse a folder that cannot be trained and served as it stands.

    Raises:
        ModelError: names the missing file and the way to get it.
    """
    if not path.is_dir():
        raise ModelError(f"base model folder {str(path)!r} does not exist; give an existing folder")
    if not (path / "config.json").is_file():
        raise ModelError(
            f"{path}: config.json is missing; give a whole model in Hugging Face layout"
            " (an adapter must be merged into its base first)"
        )
    if not (path / "tokenizer.json").is_file():
        raise ModelError(
            f"{path}: tokenizer.json is missing; save the model's tokenizer into the folder with"
            " AutoTokenizer.from_pretrained(...).save_pretrained(folder)"
        )
    if not _has_chat_template(path):
        raise ModelError(
            f"{path}: no chat template; take the instruct version of the model,"
            " or add the template that it was trained with as chat_template.jinja"
        )
    _check_weights(path)


def end_of_turn_ids(path: Path) -> frozenset[int]:
    """The token ids on which generation stops.

    They are `eos_token_id` of generation_config.json; a folder without that file is read as upstream
    reads it, from config.json.

    Raises:
        ModelError: the folder names none.
    """
    name = "generation_config.json" if (path / "generation_config.json").is_file() else "config.json"
    ids = _read_json(path / name).get("eos_token_id")
    found = frozenset(ids if isinstance(ids, list) else [] if ids is None else [ids])
    if not found:
        raise ModelError(
            f"{path / name}: no eos_token_id, so that no answer would ever end;"
            " set eos_token_id in generation_config.json to the ids that end a turn"
        )
    return found


def _has_chat_template(path: Path) -> bool:
    if (path / "chat_template.jinja").is_file():
        return True
    config = path / "tokenizer_config.json"
    return config.is_file() and bool(_read_json(config).get("chat_template"))


def weight_files(path: Path) -> list[Path]:
    """The files that hold the weights: those of the index, if there is one."""
    index = path / "model.safetensors.index.json"
    if index.is_file():
        return [path / name for name in sorted(set(_read_json(index)["weight_map"].values()))]
    return sorted(path.glob("*.safetensors"))


def _check_weights(path: Path) -> None:
    files = weight_files(path)
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise ModelError(
            f"{path}: {len(absent)} of {len(files)} weight files are missing, first {absent[0]!r};"
            " complete the download"
        )
    if not files:
        raise ModelError(
            f"{path}: no *.safetensors weights; other formats can run code when read, so convert them with"
            " AutoModelForCausalLM.from_pretrained(...).save_pretrained(folder)"
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelError(f"{path}: not JSON ({error}); get the file again") from None
    if not isinstance(content, dict):
        raise ModelError(
            f"{path}: a JSON object is expected, not {type(content).__name__}; get the file again"
        )
    return content
