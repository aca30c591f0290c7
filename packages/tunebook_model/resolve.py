"""A base-model reference of a spec, turned into a local folder that is ready to train and serve."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tunebook_model import builtin
from tunebook_model.digests import file_digest, model_digest
from tunebook_model.folder import check_layout
from tunebook_spec.base_model import AnyBaseModel, BuiltinModel, FolderModel, GgufModel, HubModel
from tunebook_spec.errors import ModelError

CONVERSION_FORMAT = 1
"""Raised when a GGUF file would convert to something else, so that kept conversions are made again."""


@dataclass(frozen=True)
class ReadyModel:
    path: Path
    """A folder in Hugging Face layout."""
    name: str
    """What tables call the model."""
    digest: str
    """sha256 over the files that decide what it answers."""
    revision: str | None
    """The hub commit; None for a model that does not come from the hub."""


def resolve(
    reference: AnyBaseModel, *, assets_dir: Path, cache_dir: Path, hub_online: bool, hf_token: str | None
) -> ReadyModel:
    """Make a base model ready; nothing is converted or downloaded twice.

    Raises:
        ModelError: the model is absent, incomplete or of a kind that we cannot reproduce exactly.
    """
    revision = None
    match reference:
        case BuiltinModel():
            path, name = builtin.require(assets_dir), builtin.TITLE
        case FolderModel():
            path = Path(reference.path).expanduser()
            name = path.resolve().name
        case GgufModel():
            gguf = Path(reference.path).expanduser()
            path, name = _converted(gguf, cache_dir), f"{gguf.stem}, dequantised"
        case HubModel():
            from tunebook_model import hub

            path = hub.snapshot(reference.repo, reference.revision, online=hub_online, token=hf_token)
            name, revision = reference.repo, path.name
    check_layout(path)
    return ReadyModel(path, name, model_digest(path, cache_dir), revision)


def _converted(gguf: Path, cache_dir: Path) -> Path:
    if not gguf.is_file():
        raise ModelError(f"base model file {str(gguf)!r} does not exist; give the path of a .gguf file")
    target = cache_dir / "models" / f"gguf-{file_digest(gguf, cache_dir)[:16]}-{CONVERSION_FORMAT}"
    if not target.is_dir():
        from tunebook_model.convert import convert_gguf

        convert_gguf(gguf, target)
    return target
