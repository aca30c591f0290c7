"""What the files that deploy say to the code is what the code reads; and they agree with one another."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

import pytest
import ray
import typer
from pydantic import BaseModel
from sqlalchemy import make_url

from tests.deployment import INFRA, ROOT, compose, deployed, environment, images, yaml
from tunebook_cli.main import app
from tunebook_run import service
from tunebook_run.service import Address
from tunebook_run.settings import Settings
from tunebook_spec import load

GIVEN = {"POSTGRES_PASSWORD": "secret", "TUNEBOOK_HUB_ONLINE": "true", "TUNEBOOK_HF_TOKEN": "secret"}
OF_SET_UP = {"TUNEBOOK_EXTRA"}
ROLES = {"gateway": "gateway", "worker": "worker", "model-server": "model_server"}
"""Services of compose.yaml, and their targets of the Dockerfile."""
CLUSTERS = ["k8s/raycluster-cpu.yaml", "k8s/raycluster-gpu.yaml"]
FILES = [*deployed(), INFRA / "README.md"]


def is_setting(name: str) -> bool:
    model: Any = Settings
    for part in name.removeprefix("TUNEBOOK_").lower().split("__"):
        if not (isinstance(model, type) and issubclass(model, BaseModel) and part in model.model_fields):
            return False
        annotation = model.model_fields[part].annotation
        model = next((each for each in (annotation, *get_args(annotation)) if isinstance(each, type)), None)
    return True


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(INFRA)))
def test_variables_are_settings_and_addresses_are_of_no_other_host(path: Path) -> None:
    text = path.read_text()
    names = set(re.findall(r"\bTUNEBOOK_[A-Z_]*[A-Z]", text)) - OF_SET_UP
    assert [name for name in sorted(names) if not is_setting(name)] == []
    hosts = set(re.findall(r"\w+://(?:[^/@\s]+@)?([^:/\s\"'`]+)", text))
    assert hosts <= {"127.0.0.1", "model-server", "postgres", "bucket"}


def test_what_is_no_setting_is_seen() -> None:
    assert is_setting("TUNEBOOK_GATEWAY__DATABASE_URL")
    assert not is_setting("TUNEBOOK_GATEWAY__DATABASE")
    assert not is_setting("TUNEBOOK_STORAGE")
    assert not is_setting("TUNEBOOK_LOG__LEVEL")


@pytest.mark.parametrize("name", ROLES)
def test_a_service_is_started_with_settings_that_it_can_read(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own command line, up to where it would begin to serve."""
    image, described = images()[ROLES[name]], compose()["services"][name]
    assert described["build"]["target"] == ROLES[name]
    at = started(image.entrypoint, image.command, environment(name, GIVEN), monkeypatch)
    assert [at.port] == (image.ports or [0])
    assert at.host == ("0.0.0.0" if image.ports else "")
    for published in described.get("ports", []):
        assert published == f"127.0.0.1:{at.port}:{at.port}"
    for url in image.healthcheck[-1:]:
        assert url.startswith(f"http://127.0.0.1:{at.port}/")


def started(
    entrypoint: list[str], command: list[str], settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Address:
    python, option, module = entrypoint
    assert (python, option) == ("python", "-m")
    run_service, seen = service.run_service, []

    def serve_nothing(module: str, about: str, serve: Any, *, port: int | None = None) -> int:
        return run_service(module, about, lambda _, at: seen.append(at), port=port)

    monkeypatch.setattr(service, "run_service", serve_nothing)
    monkeypatch.setattr(service.log, "configure", lambda *_: None)
    monkeypatch.setattr(sys, "argv", [module, *command])
    for variable, value in settings.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__")
    assert ended.value.code == 0
    (at,) = seen
    return at


def test_services_are_where_the_others_look_for_them() -> None:
    services, settings = compose()["services"], environment("gateway", GIVEN)
    assert settings == environment("worker", GIVEN) == environment("model-server", GIVEN)
    assert settings["TUNEBOOK_HF_TOKEN"] == "secret"
    assert "TUNEBOOK_GATEWAY__ALIASES" not in settings
    server = urlsplit(settings["TUNEBOOK_GATEWAY__MODEL_SERVER_URL"])
    assert images()[ROLES[str(server.hostname)]].ports == [server.port]
    url, database = make_url(settings["TUNEBOOK_GATEWAY__DATABASE_URL"]), environment("postgres", GIVEN)
    assert url.host in services
    assert (url.username, url.password) == (database["POSTGRES_USER"], database["POSTGRES_PASSWORD"])
    assert (url.database, url.port) == (database["POSTGRES_USER"], 5432)  # as its image has it


def test_roles_run_as_nobody_special_and_keep_what_is_to_be_kept_in_the_volume() -> None:
    for target in ("trainer", *ROLES.values()):
        image = images()[target]
        assert image.user == "1000"
        kept = {image.environment[name] for name in ("TUNEBOOK_STORAGE_URL", "TUNEBOOK_CACHE_DIR")}
        settings = environment("worker", GIVEN)
        assert kept == {settings[name] for name in ("TUNEBOOK_STORAGE_URL", "TUNEBOOK_CACHE_DIR")}
        volumes = compose()["services"]["worker"]["volumes"]
        assert volumes == ["state:/var/lib/tunebook"]
        assert all(path.startswith("/var/lib/tunebook/") for path in kept)


def test_the_builder_is_sent_what_is_copied_and_little_else() -> None:
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", (INFRA / "Dockerfile").read_text(), re.MULTILINE)
    sent = re.findall(r"^!(.+)$", (INFRA / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    assert sorted(" ".join(copied).split()) == sorted(sent)
    assert all((ROOT / path).exists() for path in sent)


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_of_kubernetes_has_our_ray_and_settings_that_can_be_read(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = yaml(name)["spec"]
    assert spec["rayVersion"] == ray.__version__
    (head,) = spec["headGroupSpec"]["template"]["spec"]["containers"]
    for each in head["env"]:
        monkeypatch.setenv(each["name"], each.get("value", "s3://bucket/runs"))
    workers, settings = spec["workerGroupSpecs"][0], Settings.read()
    assert settings.num_workers == workers["replicas"]
    (worker,) = workers["template"]["spec"]["containers"]
    assert settings.cpus_per_worker == worker["resources"]["requests"]["cpu"]
    assert worker["image"] == head["image"]


def test_the_secret_that_the_readme_makes_is_the_one_that_clusters_read() -> None:
    readme = (INFRA / "README.md").read_text()
    (secret,), made = (
        re.findall(r"create secret generic (\S+)", readme),
        re.findall(r"--from-literal=(\w+)=", readme),
    )
    for name in CLUSTERS:
        read = set(re.findall(r"secretKeyRef: \{name: ([\w-]+), key: (\w+)\}", (INFRA / name).read_text()))
        assert read == {(secret, key) for key in made}
        assert secret != yaml(name)["metadata"]["name"]  # of the secret with the operator's token


@pytest.mark.parametrize("name", ["ray/cluster.yaml", "ray/ssh.yaml"])
def test_launchers_send_what_set_up_needs_and_ask_for_a_token(name: str) -> None:
    config = yaml(name)
    sent = {remote: local for remote, local in config["file_mounts"].items() if "tunebook" in remote}
    assert all(remote == f"~/tunebook/{local}" and (ROOT / local).exists() for remote, local in sent.items())
    files = {"pyproject.toml", "README.md", "LICENSE"}
    assert {"infra", "packages", "services", "specs", *files} == {*sent.values()}
    starts = [config["head_start_ray_commands"], config["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in commands[-1] for commands in starts)
    assert "~/.ray/auth_token" in config["file_mounts"]


def commands() -> list[str]:
    """All calls of `tunebook` in the files and their README."""
    image, job = images()["trainer"], yaml("k8s/rayjob.yaml")["spec"]["entrypoint"]
    found = [shlex.join([*image.entrypoint, *image.command]), job]
    for path in FILES:
        found += re.findall(r"(?:exec gateway |/bin/)(tunebook [^`'\n]+)", path.read_text())
    return found


@pytest.mark.parametrize("line", commands())
def test_commands_are_known(line: str) -> None:
    command: Any = typer.main.get_command(app)
    program, *words = shlex.split(line)
    assert program == "tunebook"
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    if words != ["--help"]:
        command.make_context(program, [*words])
    if "--profile" in words:
        spec, profile = words[0], words[words.index("--profile") + 1]
        name = spec if os.sep in spec else f"/opt/tunebook/specs/{spec}.yaml"
        load(ROOT / Path(name).relative_to("/opt/tunebook"), profile=profile)
