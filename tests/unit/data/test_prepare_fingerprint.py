from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunebook_data.fingerprint import preflight, source_digests
from tunebook_spec import load
from tunebook_spec.data import Data
from tunebook_spec.errors import DataError, SpecError

WriteJsonl = Callable[..., Path]

SPEC = """\
version: 1
name: colours
base_model: {kind: builtin, name: smollm2-135m-instruct}
data:
  sources:
    - kind: file
      path: rows.jsonl
      task: colour
SOURCES
  replay: {share: 0.1}
method: {kind: full}
evaluation:
  sets:
    colour: {task: colour, metrics: [exact_match]}
  gates:
    - {metric: colour.exact_match, at_least: 0.5}
"""


def problems(tmp_path: Path, *sources: str) -> list[str]:
    lines = [f"    - {source}" for source in sources]
    text = SPEC.replace("SOURCES\n", "".join(f"{line}\n" for line in lines))
    (tmp_path / "colours.yaml").write_text(text)
    return [str(problem) for problem in preflight(load(tmp_path / "colours.yaml"), assets_dir=tmp_path)]


def digests(folder: Path, *sources: dict[str, Any]) -> dict[str, str]:
    data = Data.model_validate({"sources": sources})
    return source_digests(data, spec_dir=folder, assets_dir=folder)


def test_a_digest_follows_the_content_alone(write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    write_jsonl([{"a": 1}], "a.jsonl")
    write_jsonl([{"b": 1}], "b.jsonl")
    a, b = ({"kind": "file", "path": f"{name}.jsonl", "task": "task"} for name in "ab")
    built_in = {"kind": "dataset", "name": "medical_glossary", "task": "choice"}
    first = digests(tmp_path, a, b, built_in)
    again = digests(tmp_path, built_in, b, {**a, "max_test_rows": 3})
    assert list(first.items()) == list(again.items())
    write_jsonl([{"a": 2}], "a.jsonl")
    changed = digests(tmp_path, a, b, built_in)
    assert {name for name in first if first[name] != changed[name]} == {"file:a.jsonl"}


def test_a_digest_of_a_missing_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file: .*absent\.jsonl"):
        digests(tmp_path, {"kind": "file", "path": "absent.jsonl", "task": "task"})


def test_a_sound_spec_has_no_problems(write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    write_jsonl([{"a": 1}])
    assert problems(tmp_path) == []


def test_missing_files_are_told_all_at_once_with_their_lines(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "notes.txt").write_text("x")
    found = problems(
        tmp_path,
        "{kind: file, path: folder, task: colour}",
        "{kind: file, path: empty.jsonl, task: colour}",
        "{kind: file, path: notes.txt, task: colour}",
        "{kind: dataset, name: medical_glossary, task: chioce}",
    )
    assert found[0].startswith("line 7, data.sources.0.path: no such file: ")
    assert found[1].startswith("line 9, data.sources.1.path: is a folder")
    assert found[2].startswith("line 10, data.sources.2.path: is an empty file")
    assert found[3].startswith("line 11, data.sources.3.path: the name 'notes.txt' does not say")
    assert found[4] == (
        "line 12, data.sources.4.task: medical_glossary derives no task 'chioce'; it has glossary, choice"
    )
    assert all("line 12, data.sources.4.name: needs the data package" in each for each in found[5:])
    assert found[5:]


def test_what_cannot_be_meant_is_told(write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    write_jsonl([{"a": 1}])
    found = problems(
        tmp_path,
        "{kind: file, path: ./rows.jsonl, task: colour}",
        "{kind: file, path: rows.jsonl, task: replay}",
    )
    assert found == [
        "line 9, data.sources.1.path: is listed twice for the same task: every row would be a duplicate",
        "line 10, data.sources.2.task: 'replay' is the task of rehearsed rows; name it otherwise",
    ]


def test_a_file_may_be_listed_twice_where_other_columns_are_read(
    write_jsonl: WriteJsonl, tmp_path: Path
) -> None:
    write_jsonl([{"a": 1}])
    there = '{kind: file, path: rows.jsonl, task: x, columns: {user: "{a}", assistant: "{b}"}}'
    back = '{kind: file, path: rows.jsonl, task: x, columns: {user: "{b}", assistant: "{a}"}}'
    assert problems(tmp_path, there, back) == []
    (problem,) = problems(tmp_path, there, back.replace("rows", "row?"), there.replace("rows", "r*"))
    assert problem.startswith("line 11, data.sources.3.path: is listed twice")


def test_a_set_without_test_rows_is_told(write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    write_jsonl([{"a": 1}])
    (tmp_path / "colours.yaml").write_text(
        SPEC.replace("SOURCES\n", "").replace("task: colour\n", "task: colour\n      split: {test: 0}\n", 1)
    )
    (problem,) = preflight(load(tmp_path / "colours.yaml"), assets_dir=tmp_path)
    assert problem.where == "evaluation.sets.colour.task"
    assert "split.test 0" in problem.message


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (
            "{colour: {type: objekt}}",
            "data.checks.answer_schema.colour: is no JSON Schema: $.type: 'objekt' is not valid",
        ),
        ("{tint: {type: object}}", "no source has task 'tint'; sources have: colour"),
    ],
    ids=["not a schema", "no such task"],
)
def test_a_schema_that_cannot_be_meant_is_told(
    write_jsonl: WriteJsonl, tmp_path: Path, schema: str, message: str
) -> None:
    write_jsonl([{"a": 1}])
    text = SPEC.replace("SOURCES\n", f"  checks: {{answer_schema: {schema}}}\n")
    (tmp_path / "colours.yaml").write_text(text)
    with pytest.raises(SpecError, match="1 problem") as caught:  # noqa: PT012
        loaded = load(tmp_path / "colours.yaml")
        raise SpecError("colours.yaml", tuple(preflight(loaded, assets_dir=tmp_path)))
    assert message in str(caught.value)
