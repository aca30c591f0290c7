"""A spec that `tunebook init` has written, over rows of the data set that it is like."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunebook_cli.main import main
from tunebook_plan.new_spec import PROBLEM
from tunebook_plan.shipped import shipped_folder
from tunebook_spec import load
from tunebook_spec.evaluation import TaskSet

SHIPPED = sorted(file.stem for file in shipped_folder().glob("*.yaml"))


@pytest.mark.parametrize("like", SHIPPED)
def test_what_it_writes_passes_the_check_of_its_data_under_every_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, like: str, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "mine", "--like", like]) == 0
    loaded = load(tmp_path / "specs" / "mine.yaml")
    shipped = load(shipped_folder() / f"{like}.yaml")
    assert (loaded.spec.name, loaded.spec.problem) == ("mine", PROBLEM)
    assert loaded.spec.method == shipped.spec.method
    assert [source.task for source in loaded.spec.data.sources] == ["mine"]
    assert {each.task for each in loaded.spec.evaluation.sets.values() if isinstance(each, TaskSet)} == {
        "mine"
    }
    rows = [
        json.loads(line) for line in (tmp_path / "specs" / "data" / "mine.jsonl").read_text().splitlines()
    ]
    assert len({row["group"] for row in rows}) == len(rows) == 12
    assert all(row["messages"][-1]["role"] == "assistant" for row in rows)
    capfd.readouterr()
    for profile in ([], ["--profile", "local"]):
        assert main(["data", "check", "mine", *profile]) == 0
        out, err = capfd.readouterr()
        assert "12" in out, err
