from __future__ import annotations

from pathlib import Path

import pytest

from tunebook_cli.main import main
from tunebook_spec import load


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a user, far from the repository."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


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
