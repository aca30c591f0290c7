from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock

from tests.integration.project import Project, make_project

LONGEST = (
    "test_pipeline.py",
    "test_gateway.py",
    "test_train_ray.py",
    "test_cluster.py",
    "test_train_workers.py",
    "test_submission.py",
    "test_serve.py",
    "test_run_until.py",
)
"""Files that begin first: begun last, they run beside nothing. The first makes what others wait for."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture
def project(tmp_path: Path, talking_llama: Path) -> Project:
    return make_project(tmp_path / "a project", talking_llama)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, talking_llama: Path) -> Project:
    """A project whose spec has run to its verdict once; tests must leave its stages as they are.

    Processes of pytest-xdist share one.
    """
    temporary = tmp_path_factory.getbasetemp()
    folder = (temporary.parent if "PYTEST_XDIST_WORKER" in os.environ else temporary) / "finished"
    log = folder / "a project" / "first.log"
    with FileLock(folder.with_suffix(".lock")):
        if log.exists():
            return Project(log.parent)
        project = make_project(log.parent, talking_llama)
        status, output = project.run("run", "tiny", "--profile", "local")
        assert status == 0, output
        log.write_text(output)
    return project
