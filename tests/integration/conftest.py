from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.project import Project, make_project


@pytest.fixture
def project(tmp_path: Path, talking_llama: Path) -> Project:
    return make_project(tmp_path / "a project", talking_llama)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, talking_llama: Path) -> Project:
    """A project whose spec has run to its verdict once; tests must leave its stages as they are."""
    project = make_project(tmp_path_factory.mktemp("finished") / "a project", talking_llama)
    status, output = project.run("run", "tiny", "--profile", "local")
    assert status == 0, output
    (project.folder / "first.log").write_text(output)
    return project
