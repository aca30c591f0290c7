"""The JSON Schema of a spec file, profiles included, for editors."""

from __future__ import annotations

from typing import Any

from tunebook_spec.spec import Spec


def json_schema() -> dict[str, Any]:
    """Draft 2020-12; a profile is the same shape with nothing required."""
    schema = Spec.model_json_schema()
    definitions = schema["$defs"]
    overlay = {name: _partial(definition) for name, definition in definitions.items()}
    root = _partial({key: value for key, value in schema.items() if key != "$defs"})
    for fixed in ("version", "name"):
        del root["properties"][fixed]
    root["description"] = "What this profile changes: maps merge, lists replace, a changed `kind` replaces."
    definitions |= {f"{name}Overlay": definition for name, definition in overlay.items()}
    definitions["SpecOverlay"] = root
    schema["properties"]["profiles"] = {
        "type": "object",
        "additionalProperties": {"$ref": "#/$defs/SpecOverlay"},
        "description": "Overlays by name; `local` is the default of `make scenario`.",
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _partial(node: Any) -> Any:
    """The same schema with nothing required, referring to overlays."""
    if isinstance(node, list):
        return [_partial(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {key: _partial(value) for key, value in node.items() if key not in ("required", "discriminator")}
    if "$ref" in kept:
        kept["$ref"] += "Overlay"
    if "oneOf" in kept:
        kept["anyOf"] = kept.pop("oneOf")
    return kept
