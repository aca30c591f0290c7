"""What a run has tokenised, the next one reads: the same bytes, after any change, kill or race."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.stage import start, until
from tunebook_cli.request import Request
from tunebook_cli.stage_process import run_stage
from tunebook_data.inputs import PrepareInputs
from tunebook_model.digests import model_digest
from tunebook_model.resolve import ReadyModel
from tunebook_run.settings import Settings
from tunebook_run.stages import Artifact, Stage
from tunebook_spec.data import Data

SMALL_TABLES = "from tunebook_data import kept_tokens; kept_tokens.TABLE_TOKENS = 4000; "
SPLIT = {"group_by": "topic", "test": 0.1, "validation": 0.1}
TURNS = 3


def write_rows(path: Path, numbers: range) -> None:
    rows = []
    for n in numbers:
        turns = [(f"What colour is thing {n}.{turn}?", f"Thing {n}.{turn} is blue.") for turn in range(TURNS)]
        said = [
            {"role": role, "content": text}
            for turn in turns
            for role, text in zip(("user", "assistant"), turn, strict=True)
        ]
        rows.append({"messages": said, "topic": f"t{n % 50}"})
    path.write_text("\n".join(map(json.dumps, rows)))


class Prepare:
    """The stage, on a folder of rows, with a cache."""

    def __init__(self, folder: Path, model: Path, num_rows: int) -> None:
        self.folder, self.model = folder, model
        write_rows(folder / "rows.jsonl", range(num_rows))
        write_rows(folder / "more.jsonl", range(num_rows, num_rows + 7))

    def request(self, **data: Any) -> Request:
        source = {"kind": "file", "path": "rows.jsonl", "task": "colour", "split": SPLIT}
        inputs = PrepareInputs(
            data=Data.model_validate({"sources": [source], **data}),
            seed=0,
            chat_template_kwargs={},
            suites=(),
            questions=(),
            texts=(),
        )
        return Request(
            stage=Stage.of("tiny", "prepare", inputs),
            parents={},
            model=ReadyModel(self.model, "tiny", model_digest(self.model, self.folder / "digests"), None),
            supporting={},
            spec_dir=self.folder,
            ray_address=None,
            facts={},
        )

    def environment(self, runs: str, cache: str) -> dict[str, str]:
        return {
            "TUNEBOOK_STORAGE_URL": str(self.folder / runs),
            "TUNEBOOK_CACHE_DIR": str(self.folder / cache),
        }

    def run(self, runs: str, cache: str = "cache", **data: Any) -> dict[str, str]:
        """The digests of what it leaves."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment(runs, cache).items():
                patch.setenv(name, value)
            run_stage(self.request(**data), Settings.read())
        return self.left(runs)

    def left(self, runs: str) -> dict[str, str]:
        (path,) = (self.folder / runs).glob("tiny/stages/prepare-*/artifact.json")
        return Artifact.model_validate_json(path.read_text()).files

    def start(self, runs: str) -> subprocess.Popen[str]:
        return start(self.request(), self.environment(runs, "cache"), SMALL_TABLES)

    @property
    def tables(self) -> list[Path]:
        return [*self.folder.glob("cache/tokens/*/*.arrow")]


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Any:
    """The numbers that the last run told: rows, and those known."""
    caplog.set_level("INFO")

    def last() -> tuple[int, int]:
        found = [each for each in caplog.messages if "tokens of" in each]
        rows, known = re.findall(r"\d+", found[-1])
        return int(rows), int(known)

    return last


def source(**fields: Any) -> dict[str, Any]:
    return {"kind": "file", "path": "rows.jsonl", "task": "colour", "split": SPLIT, **fields}


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        ({}, 90),
        ({"sources": [source(split={**SPLIT, "test": 0.3})]}, 90),
        ({"sources": [source(max_train_rows=9, weight=2)]}, 90),
        ({"sources": [source(task="hue")]}, 90),
        ({"sources": [source(), source(path="more.jsonl")]}, 97),
        ({"dedup": {"near": 0.9}}, 90),
        ({"checks": {"max_tokens": 1000, "refusals": "drop"}}, 90),
    ],
    ids=["nothing", "split", "caps", "task", "a source more", "near copies", "limits"],
)
def test_a_change_that_leaves_rows_as_they_were_tokenises_only_those_not_known(
    tmp_path: Path, tiny_llama: Path, told: Any, data: dict[str, Any], rows: int
) -> None:
    prepare = Prepare(tmp_path, tiny_llama, 90)
    prepare.run("first")
    assert told() == (90, 0)
    assert prepare.run("again", **data) == prepare.run("alone", "empty", **data)
    with_cache = prepare.run("third", **data)
    assert told() == (rows, rows)
    assert with_cache == prepare.left("alone")


@pytest.mark.parametrize(
    "data",
    [
        {"system": "Name the colour."},
        {"checks": {"max_tokens": 90, "on_too_long": "truncate_left"}},
    ],
    ids=["system text", "rows are cut"],
)
def test_a_change_of_what_is_rendered_finds_nothing_known(
    tmp_path: Path, tiny_llama: Path, told: Any, data: dict[str, Any]
) -> None:
    prepare = Prepare(tmp_path, tiny_llama, 20)
    first = prepare.run("first")
    changed = prepare.run("changed", **data)
    assert told() == (20, 0)
    assert changed["train.tokens.arrow"] != first["train.tokens.arrow"]
    assert prepare.run("again", **data) == changed
    assert told() == (20, 20)


def test_a_kill_leaves_what_was_tokenised(tmp_path: Path, tiny_llama: Path, told: Any) -> None:
    prepare = Prepare(tmp_path, tiny_llama, 600)
    process = prepare.start("killed")
    until(lambda: len(prepare.tables) >= 2, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    whole = prepare.run("killed")
    rows, known = told()
    assert 0 < known < rows == 600
    assert whole == prepare.run("alone", "empty")


def test_two_runs_at_once_share_a_cache(tmp_path: Path, tiny_llama: Path, told: Any) -> None:
    prepare = Prepare(tmp_path, tiny_llama, 200)
    both = [prepare.start(runs) for runs in ("one", "two")]
    for process in both:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    assert prepare.left("one") == prepare.left("two") == prepare.run("three")
    assert told() == (200, 200)
