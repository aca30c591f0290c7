"""Bad input: one clean message, exit status 2, no traceback, nothing half-written."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.integration.project import SPEC, Project
from tunebook_cli.main import main


def change(project: Project, old: str, new: str) -> None:
    path = project.folder / "specs" / "tiny.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def no_tokenizer(project: Project) -> None:
    for file in (project.folder / "models" / "tiny llama").glob("tokenizer*"):
        file.unlink()


def short_answers(project: Project) -> None:
    row = {
        "topic": "a",
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
    }
    (project.folder / "my rows.jsonl").write_text(json.dumps(row) + "\n")


def endpoint_without_url(project: Project) -> None:
    change(project, "  replay:", "  augment: {teacher: teacher}\n  replay:")
    change(project, "models:\n", "models:\n  teacher: {kind: endpoint, model: gpt-x}\n")


def line_of(text: str) -> int:
    """Of the tiny spec, counted from 1."""
    (line,) = [number for number, line in enumerate(SPEC.splitlines(), 1) if text in line]
    return line


METHOD, GATE = line_of("kind: full"), line_of("gain_over")
CASES = {
    "unknown key": (
        lambda p: change(p, "epochs: 12", "epoks: 4"),
        [f"line {METHOD}, method.epoks: unknown key; did you mean 'epochs'?"],
    ),
    "wrong type": (
        lambda p: change(p, "epochs: 12", "epochs: four"),
        [f"line {METHOD}, method.epochs: Input should be a valid integer"],
    ),
    "two errors": (
        lambda p: change(p, "epochs: 12, learning_rate: 1.0e-2", "epochs: 0, learning_rate: -1"),
        ["2 problems", "method.epochs: Input should be greater", "method.learning_rate: Input should be"],
    ),
    "an adapter on no module": (
        lambda p: change(p, "kind: full,", "kind: lora, target_modules: [q_prjo],"),
        [
            f"line {METHOD}, method.target_modules: no module matches 'q_prjo'; its linear layers are:"
            " down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
        ],
    ),
    "missing file": (
        lambda p: (p.folder / "my rows.jsonl").unlink(),
        ["line 8, data.sources.0.path:", "no such file: ", "a project/my rows.jsonl"],
    ),
    "a suite's row without an answer": (
        lambda p: (p.folder / "own.jsonl").write_text('{"question": "What is 2+2?"}\n'),
        ["evaluation.sets.own.file: suite ../own.jsonl:1: answer: Field required; write {"],
    ),
    "unknown dataset": (
        lambda p: change(p, "kind: file, path: ../my rows.jsonl", "kind: dataset, name: medicle_glossary"),
        [
            "line 8, data.sources.0.name: Input should be 'medical_glossary', 'medical_plain', ",
            "'code_style'",
            "(got 'medicle_glossary')",
        ],
    ),
    "undeclared metric": (
        lambda p: change(p, "metric: colour.exact_match", "metric: colour.f1"),
        [
            f"line {GATE}, evaluation.gates.0.metric: no set declares 'colour.f1'; declared: ",
            "colour.exact_match",
        ],
    ),
    "not YAML": (
        lambda p: change(p, "name: tiny", "name: 'tiny"),
        ["is not YAML", "line", "column"],
    ),
    "duplicate key": (
        lambda p: change(p, "name: tiny", "name: tiny\nname: tiny"),
        ["line 3: duplicate key"],
    ),
    "a list": (
        lambda p: (p.folder / "specs" / "tiny.yaml").write_text("- a\n"),
        ["is a list; a spec is a map"],
    ),
    "endpoint without a URL": (
        endpoint_without_url,
        ["models.teacher: is an endpoint, and nothing says where", "TUNEBOOK_MODELS__TEACHER__BASE_URL"],
    ),
    "no tokenizer": (no_tokenizer, ["tokenizer", "models/tiny llama"]),
}


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(project: Project, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """The command in this process, in the project's folder: exit status, and all that it printed."""
    monkeypatch.chdir(project.folder)

    def run_command(*arguments: str) -> tuple[int, str]:
        status = main(list(arguments))
        captured = capfd.readouterr()
        return status, captured.out + captured.err

    return run_command


def check(project: Project, status: int, output: str, expected: list[str]) -> None:
    assert status == 2, output
    assert "Traceback" not in output
    for part in expected:
        assert part in output, output
    assert output.count("error:") + output.count("stage prepare:") == 1
    assert not list(project.folder.glob("runs/tiny/stages/*/artifact.json"))


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_clean_message(project: Project, run: Run, case: str) -> None:
    damage, expected = CASES[case]
    damage(project)
    status, output = run("run", "tiny", "--profile", "local", "--set", "data.replay=null")
    check(project, status, output, expected)


def test_a_data_set_that_is_empty_after_checks_says_what_was_wrong(project: Project) -> None:
    short_answers(project)
    command = ("run", "tiny", "--profile", "local", "--set", "data.replay=null")
    expected = ["no row of 1 is left", "1 x answer shorter than min_response_chars 2"]
    check(project, *project.run(*command), expected)


def test_an_unknown_spec_lists_what_there_is(run: Run) -> None:
    status, output = run("run", "tinny")
    assert status == 2
    assert output.strip() == "error: no spec 'tinny'; did you mean 'tiny'?; there are: tiny"


def test_bad_usage_and_bad_settings_exit_2(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("run")[0] == 2
    assert run("run", "tiny", "--nope")[0] == 2
    monkeypatch.setenv("TUNEBOOK_NUM_WORKERS", "none")
    status, output = run("run", "tiny")
    assert status == 2
    assert "TUNEBOOK_NUM_WORKERS: Input should be a valid integer" in output
    monkeypatch.delenv("TUNEBOOK_NUM_WORKERS")
    monkeypatch.setenv("TUNEBOOK_NUM_ENGINES", "2")
    status, output = run("run", "tiny", "--profile", "local")
    assert status == 2
    assert "TUNEBOOK_NUM_ENGINES are of a Ray cluster: set TUNEBOOK_RAY_ADDRESS" in output


def test_no_spec_at_all_lists_what_there_is(run: Run) -> None:
    assert run("run", "") == (2, "error: no spec ''; there are: tiny\n")
