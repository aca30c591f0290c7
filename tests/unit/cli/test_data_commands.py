from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunebook_cli.main import main

SPEC = """\
version: 1
name: colours
base_model: {{kind: folder, path: '{model}'}}
data:
  sources:
    - {{kind: file, path: rows.jsonl, task: colour, split: {{group_by: topic, test: 0.2}}}}
method: {{kind: full}}
evaluation:
  sets:
    colour: {{task: colour, metrics: [exact_match]}}
  gates:
    - {{metric: colour.exact_match, at_least: 0.5}}
profiles:
  strict: {{data: {{checks: {{min_response_chars: 500}}}}}}
"""
Command = Callable[..., tuple[int, str, str]]


def row(n: int, answer: str = "It is certainly blue.") -> dict[str, Any]:
    messages = [
        {"role": "user", "content": f"What colour is thing {n}?"},
        {"role": "assistant", "content": answer},
    ]
    return {"messages": messages, "topic": f"t{n % 20}"}


def write(folder: Path, *more: dict[str, Any] | str) -> None:
    lines = [line if isinstance(line, str) else json.dumps(line) for line in (*map(row, range(60)), *more)]
    (folder / "rows.jsonl").write_text("\n".join(lines))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a spec whose base model is not there, and its rows."""
    (tmp_path / "colours.yaml").write_text(SPEC.format(model="absent"))
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNEBOOK_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def command(folder: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Command:
    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(["data", *arguments])
        captured = capfdbinary.readouterr()
        return status, captured.out.decode(), captured.err.decode()

    return run


def test_check_tells_counts_rejects_and_what_it_left_out(folder: Path, command: Command) -> None:
    write(folder, row(0), row(1, "No."), "{ ada@uni-ulm.de \x1b[31m", row(2, "Off [red]\x1b[31m it goes."))
    status, out, err = command("check", "colours.yaml")
    assert status == 0, err
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "parse all rows 64 63 records to conversations" in lines
    assert "exact duplicates all rows 61 60 equal conversations" in lines
    assert "rows.jsonl colour 64 3 1 0 0 0 45 3 12" in lines
    assert "reject rows.jsonl:63: not JSON (got '{ [EMAIL] \\x1b[31m')" in lines
    assert any(line.startswith("reject rows.jsonl:62: messages[1].content: answer shorter") for line in lines)
    assert any("[red]" in line for line in lines), "nothing is read as markup"
    assert "\x1b" not in out, "nor steers the terminal"
    assert any(line.startswith("advice 45 rows to train on are too few") for line in lines)
    assert "not checked, for want of the base model: lengths in tokens" in out


def test_check_asks_no_supporting_model_and_says_so(folder: Path, command: Command) -> None:
    write(folder, {"messages": [{"role": "user", "content": "What colour is thing 99?"}], "topic": "t99"})
    told = "left out, since it asks a supporting model"
    assert told not in command("check", "colours.yaml")[1]
    asks = (
        "models: {t: {kind: endpoint, model: m}}\ndata:\n  augment: {teacher: t}\n  distill: {teacher: t}\n"
    )
    (folder / "asks.yaml").write_text(SPEC.format(model="absent").replace("data:\n", asks))
    status, out, err = command("check", "asks.yaml")
    assert status == 0, err
    assert f"{told}: data.augment, data.distill" in out
    assert "1 more have no answer, for a teacher" in " ".join(out.split())
    assert "reject  " not in out


def test_check_lists_the_first_rejects_alone(folder: Path, command: Command) -> None:
    write(folder, *(row(n, "No.") for n in range(12)))
    _, out, _ = command("check", "colours.yaml")
    assert out.count("reject  rows.jsonl:") == 10
    assert "and 2 more" in out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nope.yaml"], "nope.yaml: 1 problem"),
        (["colours.yaml", "--set", "data.sources.0.path=absent.jsonl"], "no such file"),
        (["colours.yaml", "--set", "data.nope=1"], "data.nope: unknown key"),
        (
            ["colours.yaml", "--profile", "strict"],
            "60 of 60 rows are rejects, more than data.max_reject_fraction",
        ),
        (
            ["colours.yaml", "--profile", "strict", "--set", "data.max_reject_fraction=1"],
            "no row of 60 is left",
        ),
    ],
    ids=["no spec", "no file", "bad spec", "too many rejects", "nothing left"],
)
def test_a_bad_spec_or_source_exits_2_and_says_why(
    command: Command, arguments: list[str], expected: str
) -> None:
    status, out, err = command("check", *arguments)
    assert status == 2
    assert expected in err
    assert out == ""


def test_check_counts_as_prepare_does(folder: Path, tiny_llama: Path) -> None:
    from tunebook_data.assemble import assemble
    from tunebook_data.inputs import PrepareInputs
    from tunebook_data.steps import assembly_steps
    from tunebook_model.render import Renderer
    from tunebook_spec import load

    write(folder, row(0), row(1, "No."), "{")
    loaded = load(folder / "colours.yaml")
    with_and_without = [
        assemble(
            PrepareInputs.of(loaded.spec),
            renderer=renderer,
            spec_dir=folder,
            assets_dir=folder,
            advance=lambda done, total, note="": None,
        )
        for renderer in (Renderer.load(tiny_llama, {}), None)
    ]
    with_model, without = with_and_without
    assert with_model.sources == without.sources
    splits = [{side: [*rows] for side, rows in made.stored_splits().items()} for made in with_and_without]
    assert splits[0] == splits[1]
    assert (with_model.is_rendered, without.is_rendered) == (True, False)
    told = [
        [(step.name, step.rows_out) for step in assembly_steps(made, loaded.spec.data)]
        for made in with_and_without
    ]
    assert told[0] == told[1]


def test_preview_marks_what_is_supervised(folder: Path, command: Command, tiny_llama: Path) -> None:
    write(folder, row(77, "Mail me at ada@uni-ulm.de, then."))
    model = f"base_model.path={json.dumps(str(tiny_llama))}"
    status, out, err = command("preview", "colours.yaml", "--rows", "2", "--set", model)
    assert status == 0, err
    assert out.count("[[It is certainly blue.<|eot_id|>]]") == 2
    assert out.count("[[") == 2
    assert (
        out.count("<|begin_of_text|><|start_header_id|>user<|end_header_id|>↵\n↵\nWhat colour is thing ") == 2
    )
    assert "2 of 46 training rows, as tiny llama reads them" in err
    _, out, _ = command("preview", "colours.yaml", "--rows", "100", "--set", model)
    assert out.count("[[") == 45
    assert "ada@" not in out


def test_preview_colours_on_a_terminal(
    folder: Path, command: Command, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = f"base_model.path={json.dumps(str(tiny_llama))}"
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    _, out, _ = command("preview", "colours.yaml", "--rows", "1", "--set", model)
    assert "\x1b[32mIt is certainly blue.\x1b[0m\x1b[1;32m<|eot_id|>\x1b[0m" in out
    assert "[[" not in out
    monkeypatch.setenv("NO_COLOR", "1")
    _, out, _ = command("preview", "colours.yaml", "--rows", "1", "--set", model)
    assert "[[It is certainly blue." in out
    assert "\x1b[32m" not in out


def test_preview_without_its_model_exits_2(command: Command) -> None:
    status, _, err = command("preview", "colours.yaml")
    assert status == 2
    assert "absent" in err


def test_convert_writes_messages_to_standard_output_or_a_new_file(folder: Path, command: Command) -> None:
    (folder / "pairs.csv").write_text("prompt,completion\nHi,Hello.\n")
    written = '{"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Hello."}]}\n'
    status, out, err = command("convert", "pairs.csv", "--to", "messages")
    assert (status, out, err) == (0, written, "1 rows written, 0 rejects\n")
    assert command("convert", "pairs.csv", "--to", "messages", "--out", "new.jsonl")[:2] == (0, "")
    assert (folder / "new.jsonl").read_text() == written
    (folder / "new.jsonl").write_text("mine")
    status, _, err = command("convert", "pairs.csv", "--to", "messages", "--out", "new.jsonl")
    assert (status, err) == (
        2,
        "error: new.jsonl: is there already; give --force to replace it, or another --out\n",
    )
    assert (folder / "new.jsonl").read_text() == "mine"
    assert command("convert", "pairs.csv", "--to", "messages", "--out", "new.jsonl", "--force")[0] == 0
    assert (folder / "new.jsonl").read_text() == written


def test_convert_exits_2_where_a_row_is_a_reject_and_writes_the_others(folder: Path) -> None:
    write(folder, "{ broken")
    arguments = [sys.executable, "-m", "tunebook_cli", "data", "convert", "rows.jsonl", "--to", "messages"]
    done = subprocess.run([*arguments, "--keep-fields"], capture_output=True, text=True)
    assert done.returncode == 2
    assert [json.loads(line)["topic"] for line in done.stdout.splitlines()] == [
        f"t{n % 20}" for n in range(60)
    ]
    assert done.stderr == ("reject  rows.jsonl:61: not JSON (got '{ broken')\n60 rows written, 1 rejects\n")


def test_convert_leaves_no_file_where_nothing_can_be_read(folder: Path, command: Command) -> None:
    (folder / "bad.jsonl").write_text("{ broken")
    status, _, err = command("convert", "bad.jsonl", "--to", "messages", "--out", "new.jsonl")
    assert status == 2
    assert "error: bad.jsonl: none of its 1 rows can be read" in err
    assert not [path for path in folder.iterdir() if "new.jsonl" in path.name]
    assert command("convert", "bad.jsonl", "--to", "alpaca")[0] == 2
