"""Writes schema.json from the CRDs of KubeRay.

    python derive.py ray.io_rayclusters.yaml ray.io_rayjobs.yaml VERSION

The two files lie in `ray-operator/config/crd/bases` of ray-project/kuberay. Descriptions and defaults are
left out, fields that a CRD does not name are refused, as by `kubectl`, and equal parts are kept once.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

NESTED, LISTS = ("items", "additionalProperties"), ("anyOf", "allOf", "oneOf")
SIZES = ("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems")
RULES = ("type", "required", "enum", "pattern", *SIZES)
LEFT_OUT = ("description", "default", "format", "nullable", "x-kubernetes-")
SHARED_CHARS = 120


def main(*paths: str, version: str) -> None:
    crds = [YAML(typ="safe").load(Path(path)) for path in paths]
    kinds = {crd["spec"]["names"]["kind"]: json_schema(v1(crd)) for crd in crds}
    for kind in kinds.values():
        kind["required"] = ["apiVersion", "kind", "metadata", "spec"]
    shared = Shared(kinds)
    tops = {name: {key: shared(part) for key, part in kind.items()} for name, kind in kinds.items()}
    about = f"Derived by derive.py from the CRDs of KubeRay {version} (Apache-2.0, the KubeRay authors)."
    schema = {"$comment": about, "$defs": shared.parts | tops}
    Path(__file__).with_name("schema.json").write_text(json.dumps(schema, indent=1) + "\n")


def v1(crd: Any) -> Any:
    return next(each["schema"]["openAPIV3Schema"] for each in crd["spec"]["versions"] if each["name"] == "v1")


def json_schema(openapi: Any) -> Any:
    if not isinstance(openapi, dict):
        return openapi
    made: dict[str, Any] = {}
    for key, value in openapi.items():
        if key == "properties":
            made[key] = {name: json_schema(part) for name, part in value.items()}
        elif key in NESTED:
            made[key] = json_schema(value)
        elif key in LISTS:
            made[key] = [json_schema(part) for part in value]
        elif key in RULES:
            made[key] = value
        elif not key.startswith(LEFT_OUT):
            raise ValueError(f"{key!r} is unknown")
    keeps_unknown = openapi.get("x-kubernetes-preserve-unknown-fields", False)
    if "properties" in made and "additionalProperties" not in made and not keeps_unknown:
        made["additionalProperties"] = False
    return made


class Shared:
    """Replaces schemas that occur more than once by references to `parts`."""

    def __init__(self, whole: Any) -> None:
        self.parts: dict[str, Any] = {}
        self._names: dict[str, str] = {}
        self._count: Counter[str] = Counter()
        self._look_at(whole)

    def _look_at(self, part: Any) -> None:
        if isinstance(part, dict):
            text = json.dumps(part, sort_keys=True)
            self._count[text] += 1
            if self._count[text] > 1:
                return
        for each in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
            self._look_at(each)

    def __call__(self, part: Any) -> Any:
        if isinstance(part, list):
            return [self(each) for each in part]
        if not isinstance(part, dict):
            return part
        text = json.dumps(part, sort_keys=True)
        made = {key: self(each) for key, each in part.items()}
        if not isinstance(part.get("type"), str) or self._count[text] < 2 or len(text) < SHARED_CHARS:
            return made
        name = self._names.setdefault(text, f"part{len(self._names)}")
        self.parts[name] = made
        return {"$ref": f"#/$defs/{name}"}


if __name__ == "__main__":
    main(*sys.argv[1:3], version=sys.argv[3])
