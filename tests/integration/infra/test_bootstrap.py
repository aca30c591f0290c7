from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from infra import bootstrap
from infra.bootstrap import Project, SetupError

LOOPS = ("compiled", "loops", "minhash", "ngrams", "plain_lines")
CHECKOUT = Path(bootstrap.__file__).resolve().parent.parent


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A checkout with what set-up starts from, and an environment without packages."""
    for relative in (
        "infra/locks/cpu.txt",
        "pyproject.toml",
        "packages/tunebook_data/assets.txt",
        *(f"packages/tunebook_data/{name}.py" for name in LOOPS),
        "packages/tunebook_model/assets.txt",
        "packages/tunebook_eval/assets.txt",
        "packages/tunebook_model/builtin.py",
        "packages/tunebook_model/convert.py",
    ):
        (tmp_path / relative).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / relative).write_bytes((CHECKOUT / relative).read_bytes())
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    return Project(tmp_path, "cpu")


@pytest.fixture
def ready(project: Project) -> Project:
    """The same checkout, with every step done."""
    steps = [step for group in bootstrap.plan(project) for step in group]
    bootstrap.write_stamp(project, {step.name: step.digest for step in steps})
    return project


def due(project: Project) -> set[str]:
    steps = [step for group in bootstrap.plan(project) for step in group]
    return {step.name for step in bootstrap.due(steps, bootstrap.read_stamp(project))}


def append(path: Path) -> None:
    path.write_text(path.read_text() + "\n# changed\n")


def test_a_finished_set_up_is_not_done_again(ready: Project) -> None:
    assert not bootstrap.set_up(ready)


@pytest.mark.parametrize(
    ("changed", "again"),
    [
        ("infra/locks/cpu.txt", {"packages", "proof", "loops"}),
        ("pyproject.toml", {"project", "proof", "loops"}),
        ("packages/tunebook_data/assets.txt", {"assets", "model"}),
        ("packages/tunebook_model/convert.py", {"model"}),
    ],
)
def test_a_changed_file_brings_back_the_steps_that_read_it(
    ready: Project, changed: str, again: set[str]
) -> None:
    append(ready.root / changed)
    assert due(ready) == again


def test_everything_is_done_again_once_the_python_of_the_environment_is_gone(ready: Project) -> None:
    ready.python.unlink()
    ready.python.symlink_to(ready.root / "uninstalled" / "python3.11")
    assert due(ready) == {"environment", "packages", "assets", "project", "model", "proof", "loops"}


def test_everything_is_done_again_in_a_checkout_that_was_moved(ready: Project, tmp_path: Path) -> None:
    moved = tmp_path.with_name("moved elsewhere")
    tmp_path.rename(moved)
    assert len(due(replace(ready, root=moved))) == 7


def test_a_step_that_fails_leaves_those_beside_it_done(project: Project) -> None:
    def fail() -> str:
        raise SetupError("no")

    stamp: dict[str, str] = {}
    steps = [bootstrap.Step("packages", fail, "1"), bootstrap.Step("assets", lambda: "fine", "2")]
    with pytest.raises(SetupError, match="no"):
        bootstrap.at_once(*(partial(bootstrap.perform, step, project, stamp) for step in steps))
    assert bootstrap.read_stamp(project) == {"assets": "2"}


def test_a_checkout_without_its_lock_is_refused(project: Project) -> None:
    project.lock.unlink()
    with pytest.raises(SetupError, match=r"lacks infra/locks/cpu\.txt"):
        bootstrap.plan(project)


def test_an_unknown_extra_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEBOOK_EXTRA", "tpu")
    with pytest.raises(SetupError, match="'tpu'"):
        bootstrap.choose_extra()


def test_a_package_that_was_killed_half_way_is_installed_again(project: Project) -> None:
    packages = project.venv / "lib" / "python3.11" / "site-packages"
    for name, record in (("whole-1.0", True), ("half-1.0", False)):
        (packages / f"{name}.dist-info").mkdir(parents=True)
        if record:
            (packages / f"{name}.dist-info" / "RECORD").touch()
    bootstrap.drop_half_installed(project.venv)
    assert [path.name for path in packages.iterdir()] == ["whole-1.0.dist-info"]


def test_a_second_set_up_waits_for_the_first(project: Project) -> None:
    code = (
        "import sys; from pathlib import Path; from infra import bootstrap\n"
        "with bootstrap.locked(Path(sys.argv[1])): print('second')"
    )
    with bootstrap.locked(project.root):
        second = subprocess.Popen(
            [sys.executable, "-c", code, str(project.root)],
            cwd=CHECKOUT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert second.stderr is not None
        assert "waiting for it" in second.stderr.readline()
        assert second.poll() is None
    output, _ = second.communicate(timeout=60)
    assert output == "second\n"


def test_a_cpu_build_of_torch_is_no_environment_for_gpus_where_none_is_seen_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".venv").symlink_to(sys.prefix)
    monkeypatch.setattr(bootstrap, "MODULES", ("torch",))
    monkeypatch.setattr(bootstrap, "has_nvidia_gpu", lambda: False)
    assert bootstrap.prove(Project(tmp_path, "cpu")) == "imports torch"
    with pytest.raises(SetupError, match="this is a CPU build of torch"):
        bootstrap.prove(Project(tmp_path, "gpu"))
