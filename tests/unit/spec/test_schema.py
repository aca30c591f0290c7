from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from tunebook_spec import load
from tunebook_spec.schema import json_schema

ROOT = Path(__file__).parents[3]
SPECS = sorted((ROOT / "specs").glob("*.yaml"))


def test_the_checked_in_schema_is_current() -> None:
    assert json.loads((ROOT / "specs" / "scenario.schema.json").read_text()) == json_schema()


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_every_shipped_spec_loads_under_every_profile_and_fits_the_schema(path: Path) -> None:
    document = YAML(typ="safe").load(path.read_text())
    assert list(Draft202012Validator(json_schema()).iter_errors(document)) == []
    for profile in [None, *document["profiles"]]:
        assert load(path, profile=profile).spec.name == path.stem


def test_the_schema_refuses_an_unknown_key_in_a_profile() -> None:
    document = YAML(typ="safe").load(SPECS[0].read_text())
    document["profiles"] = {"local": {"method": {"kind": "full", "lerning_rate": 1}}}
    assert list(Draft202012Validator(json_schema()).iter_errors(document))
