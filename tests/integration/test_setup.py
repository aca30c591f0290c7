from __future__ import annotations

import os
from pathlib import Path

import pytest

from infra import bootstrap
from infra.bootstrap import Project, SetupError

NO_INDEX = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}


@pytest.fixture(scope="module")
def empty_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an environment of its own, so that pip cannot reach the one that runs the tests."""
    root = tmp_path_factory.mktemp("checkout")
    bootstrap.make_venv(Project(root, "cpu"))
    return root


@pytest.mark.parametrize(
    ("pin", "cure"),
    [
        ("torch==2.13.0+cpu", "a PyTorch CPU index is missing. Set PIP_EXTRA_INDEX_URL to one"),
        ("no-such-package==1.0", "Add one with PIP_EXTRA_INDEX_URL, or resolve anew"),
    ],
)
def test_a_package_that_no_index_has_is_named_with_the_way_out(
    empty_environment: Path, monkeypatch: pytest.MonkeyPatch, pin: str, cure: str
) -> None:
    for name, value in NO_INDEX.items():
        monkeypatch.setenv(name, value)
    project = Project(empty_environment, "cpu")
    project.lock.parent.mkdir(parents=True, exist_ok=True)
    project.lock.write_text(f"# pins\n{pin}\n")
    with pytest.raises(SetupError) as failure:
        bootstrap.install_pins(project)
    assert "step `packages` failed" in str(failure.value)
    assert pin in str(failure.value)
    assert cure in str(failure.value)
