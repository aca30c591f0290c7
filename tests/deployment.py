"""What the files in infra/ say: images of the Dockerfile, services of compose.yaml."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
INFRA = ROOT / "infra"


@dataclass
class Image:
    """A stage of the Dockerfile, with what it has of the one it begins from."""

    environment: dict[str, str] = field(default_factory=dict)
    user: str = "root"
    ports: list[int] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)


def images() -> dict[str, Image]:
    """Those of infra/Dockerfile, by target."""
    found: dict[str, Image] = {}
    image = Image()
    for instruction, value in _instructions((INFRA / "Dockerfile").read_text()):
        if instruction == "FROM":
            base, _, name = value.partition(" AS ")
            began = found.get(base, Image())
            image = found[name] = Image(dict(began.environment), began.user)
        elif instruction == "ENV":
            image.environment |= dict(re.findall(r"(\S+?)=(\S+)", value))
        elif instruction == "USER":
            image.user = value
        elif instruction == "EXPOSE":
            image.ports.append(int(value))
        elif instruction == "HEALTHCHECK":
            image.healthcheck = json.loads(value.partition("CMD ")[2])
        elif instruction == "ENTRYPOINT":
            image.entrypoint = json.loads(value)
        elif instruction == "CMD":
            image.command = json.loads(value)
    return found


def _instructions(text: str) -> list[tuple[str, str]]:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    whole = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1].strip()) for line in whole]


def compose() -> Any:
    return yaml("compose.yaml")


def environment(service: str, given: Mapping[str, str]) -> dict[str, str]:
    """Of a service of compose.yaml, started by someone with the variables given."""
    made = {}
    for name, value in compose()["services"][service]["environment"].items():
        if value is not None:
            made[name] = re.sub(r"\$\{(\w+)(:\?[^}]*)?\}", lambda found: given[found[1]], str(value))
        elif name in given:
            made[name] = given[name]
    return made


def yaml(name: str) -> Any:
    return YAML(typ="safe").load(INFRA / name)


def deployed() -> list[Path]:
    """All files in infra/ that something is started by."""
    others = (".py", ".txt", ".md", ".dockerignore", ".pyc")
    return [path for path in sorted(INFRA.rglob("*")) if path.is_file() and path.suffix not in others]
