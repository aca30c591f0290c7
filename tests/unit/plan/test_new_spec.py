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


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a user, far from the repository."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("like", SHIPPED)
def test_what_it_writes_passes_the_check_of_its_data_under_every_profile(
    own: Path, like: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "mine", "--like", like]) == 0
    loaded = load(own / "specs" / "mine.yaml")
    shipped = load(shipped_folder() / f"{like}.yaml")
    assert (loaded.spec.name, loaded.spec.problem) == ("mine", PROBLEM)
    assert loaded.spec.method == shipped.spec.method
    assert [source.task for source in loaded.spec.data.sources] == ["mine"]
    assert {each.task for each in loaded.spec.evaluation.sets.values() if isinstance(each, TaskSet)} == {
        "mine"
    }
    rows = [json.loads(line) for line in (own / "specs" / "data" / "mine.jsonl").read_text().splitlines()]
    assert len({row["group"] for row in rows}) == len(rows) == 12
    assert all(row["messages"][-1]["role"] == "assistant" for row in rows)
    capfd.readouterr()
    for profile in ([], ["--profile", "local"]):
        assert main(["data", "check", "mine", *profile]) == 0
        out, err = capfd.readouterr()
        assert "12" in out, err


def test_floors_that_other_rows_were_measured_by_do_not_come_along(own: Path) -> None:
    assert main(["init", "mine", "--like", "medical"]) == 0
    for profile in (None, "local"):
        for gate in load(own / "specs" / "mine.yaml", profile=profile).spec.evaluation.gates:
            assert gate.gain_over or gate.max_drop
            assert gate.at_least in (None, 0.0)


@pytest.mark.parametrize("taken", ["specs/mine.yaml", "specs/data/mine.jsonl"])
def test_nothing_is_overwritten(own: Path, taken: str, capfd: pytest.CaptureFixture[str]) -> None:
    (own / taken).parent.mkdir(parents=True)
    (own / taken).write_text("mine")
    assert main(["init", "mine", "--like", "brand_voice"]) == 2
    assert f"{taken} is there already" in capfd.readouterr().err
    assert [path for path in own.rglob("*") if path.is_file()] == [own / taken]
    assert (own / taken).read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["My Notes", "--like", "medical"], "'My Notes' is no name of a scenario"),
        (["mine", "--like", "medcal"], "did you mean 'medical'?"),
        (["mine", "--like", "../medical"], "no scenario of that name ships"),
    ],
    ids=["name", "near", "path"],
)
def test_a_wrong_name_says_the_way_out(
    own: Path, arguments: list[str], told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", *arguments]) == 2
    assert told in capfd.readouterr().err
    assert not list(own.iterdir())


def test_another_folder_gets_the_files_and_is_told(own: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "mine", "--like", "brand_voice", "--folder", "elsewhere"]) == 0
    out, _ = capfd.readouterr()
    assert "tunebook data check elsewhere/mine.yaml --profile local" in out
    assert main(["data", "check", "elsewhere/mine.yaml", "--profile", "local"]) == 0
