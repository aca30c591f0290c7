"""The way of the data by the real command, with scripts in the place of models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tunebook_cli.main import main
from tunebook_data.card import DataCard, read_card
from tunebook_data.rows import read_rows

SPEC = """\
version: 1
name: colours
base_model: {{kind: folder, path: '{model}'}}
data:
  sources:
    - {{kind: file, path: rows.jsonl, task: colour, split: {{group_by: topic, test: 0.2, validation: 0.1}}}}
    - {{kind: file, path: asked.csv, task: colour, columns: {{user: "Which colour is {{thing}}?"}}}}
  quality: {{judge: judge, at_least: 5, criteria: The answer names a colour.}}
  augment: {{teacher: teacher, variations: 2, rows: 10}}
  distill:
    teacher: teacher
    samples: 3
    choose: {{judge: judge, criteria: The answer names a colour.}}
models:
  teacher: {{kind: scripted, path: teacher.jsonl}}
  judge:
    kind: scripted
    script:
      - {{pattern: quite mauve, answers: ['{{"reason": "No colour that we use.", "score": 1}}']}}
      - {{pattern: certainly, answers: ['{{"reason": "It names one.", "score": 9}}']}}
      - {{pattern: .*, answers: ['{{"reason": "It does, somehow.", "score": 6}}']}}
method: {{kind: full}}
evaluation:
  sets:
    colour: {{task: colour, metrics: [exact_match]}}
  gates:
    - {{metric: colour.exact_match, at_least: 0.5}}
"""
TEACHER: list[dict[str, Any]] = [
    {
        "pattern": r"(?s)colour has (?P<thing>\w+ \d+).*",
        "answers": [
            json.dumps(
                {
                    "variations": [
                        [{"user": f"{word} a b c $thing d e f", "assistant": f"{word} g h $thing i j k"}]
                        for word in ("Say", "Tell")
                    ]
                }
            )
        ],
    },
    {
        "pattern": r"colour is (?P<thing>[\w ]+)",
        "answers": ["The $thing may be red.", "The $thing is certainly green.", "The $thing is quite mauve."],
    },
]


def rows() -> list[dict[str, Any]]:
    """No answer is like another; each fourth is of a colour that the judge dislikes."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"What colour has thing {n}?"},
                {
                    "role": "assistant",
                    "content": f"It is {'quite mauve' if n % 4 == 0 else 'certainly blue'}: {words(n)}.",
                },
            ],
            "topic": f"t{n}",
        }
        for n in range(60)
    ]


def words(n: int) -> str:
    return " ".join(f"w{n}{letter}" for letter in "abcdefgh")


@pytest.fixture
def folder(tmp_path: Path, tiny_llama: Path) -> Path:
    (tmp_path / "colours.yaml").write_text(SPEC.format(model=tiny_llama))
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows())))
    (tmp_path / "asked.csv").write_text("\n".join(["thing", *(f"case {n}" for n in range(8))]))
    (tmp_path / "teacher.jsonl").write_text("\n".join(map(json.dumps, TEACHER)))
    return tmp_path


def tunebook(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tunebook_cli", *arguments],
        cwd=folder,
        env={**os.environ, "TUNEBOOK_CACHE_DIR": str(folder / "cache"), "NO_COLOR": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )


def made(folder: Path) -> Path:
    """The newest data set."""
    return max(folder.glob("runs/colours/stages/prepare-*/"), key=lambda path: path.stat().st_mtime)


def test_the_way_of_the_data_is_walked_whole_without_a_model(folder: Path) -> None:
    checked = tunebook(folder, "data", "check", "colours.yaml")
    assert checked.returncode == 0, checked.stderr
    assert (
        "left out, since it asks a supporting model: data.quality, data.augment, data.distill"
        in checked.stdout
    )
    assert "68 60" in " ".join(checked.stdout.split()), "8 of 68 rows have no answer"

    ran = tunebook(folder, "run", "colours.yaml", "--until", "prepare")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "stopped after prepare, run colours/1; without --until the same command goes on\n"
    assert "ray" not in ran.stderr
    assert "vllm" not in ran.stderr
    card = read_card(made(folder))
    check_card(card)
    train = read_rows(made(folder) / "train.jsonl")
    assert not [row for row in train if "mauve" in row.reference]
    answered = [row for row in train if row.source == "asked.csv"]
    assert {row.reference for row in answered} == {f"The case {n} is certainly green." for n in range(8)}
    assert all(row.meta["generated"]["scores"] == [6, 9, 1] for row in answered)

    page = (folder / "runs" / "colours" / "1" / "card.html").read_text()
    assert f"{card.manifest.quality.below} rows below quality 5" in page  # type: ignore[union-attr]

    script = (folder / "teacher.jsonl").read_text()
    (folder / "teacher.jsonl").write_text(script.replace("green", "golden"))
    other = tunebook(folder, "run", "colours.yaml", "--until", "prepare")
    assert other.returncode == 0, other.stderr
    assert "answers not asked for again" in other.stderr
    train = read_rows(made(folder) / "train.jsonl")
    assert len([row for row in train if row.reference.endswith("certainly golden.")]) == 8


def check_card(card: DataCard) -> None:
    """What went in is what came out, by step and by source."""
    quality, augment, distill = card.manifest.quality, card.manifest.augment, card.manifest.distill
    assert quality is not None
    assert augment is not None
    assert distill is not None
    source, asked = card.manifest.sources
    assert (source.rows_in, source.accounted, asked.rows_in, asked.prompts) == (60, 60, 8, 8)
    assert quality.below == source.rejects > 0
    assert quality.judged.asked == source.train + quality.below == 42
    assert quality.judged.scores == {1: quality.below, 9: source.train}
    assert (augment.asked, augment.made, augment.kept) == (10, 20, 20)
    assert (distill.asked, distill.made, distill.kept, distill.answers) == (8, 8, 8, 24)
    assert distill.judged is not None
    assert distill.judged.scores == {1: 8, 6: 8, 9: 8}
    steps = {step.name: (step.rows_in, step.rows_out) for step in card.steps}
    assert steps["quality"] == (42, source.train)
    assert steps["augment"] == (source.train, source.train + 20)
    assert steps["distill"] == (source.train + 20, source.train + 28)
    assert card.manifest.splits["train"].rows == source.train + 28
    assert sum(reason.rows for reason in card.rejects) == quality.below


@pytest.mark.parametrize(
    ("change", "arguments", "told"),
    [
        (
            ("", ""),
            ("--until", "prepar"),
            "--until prepar: no such stage; this spec has, in this order: prepare,",
        ),
        (("path: teacher.jsonl", "path: absent.jsonl"), (), "script absent.jsonl: cannot be read"),
        (("judge: judge, criteria", "judge: teacher, criteria"), (), "'teacher' is the teacher's own model"),
    ],
    ids=["stage", "script", "its own judge"],
)
def test_what_cannot_be_run_exits_2_before_anything_runs(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    change: tuple[str, str],
    arguments: tuple[str, ...],
    told: str,
) -> None:
    spec = (folder / "colours.yaml").read_text()
    (folder / "colours.yaml").write_text(spec.replace(*change))
    monkeypatch.chdir(folder)
    assert main(["run", "colours.yaml", *arguments]) == 2
    assert told in capfd.readouterr().err
    assert not (folder / "runs").exists()
