from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.openai_endpoint import Endpoint, serving
from tests.unit.cli.conftest import EVALUATED
from tests.unit.eval.judged_run import JudgedRun, answer_in, scored, worth
from tunebook_cli.main import main
from tunebook_run.record import find_run, save
from tunebook_run.store import Store
from tunebook_spec import load

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(store: Store, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Command:
    def run(gates: str, *more: str, run: str = "medical@1") -> tuple[int, str, str]:
        (tmp_path / "strict.yaml").write_text(gates)
        status = main(["decide", run, "--gates", "strict.yaml", *more])
        return status, *capfd.readouterr()

    return run


def content(store: Store) -> dict[str, bytes]:
    assert store.local_root is not None
    return {
        key: store.read(key) for key in store.list("", recursive=True) if (store.local_root / key).is_file()
    }


@pytest.mark.parametrize(
    ("gate", "status", "line"),
    [
        (
            "metric: glossary.line_match, at_least: 0.8",
            0,
            "pass          glossary.line_match >= 0.8  0.900, 95 % above 0.8",
        ),
        (
            "metric: glossary.line_match, at_least: 0.99",
            3,
            "fail          glossary.line_match >= 0.99  0.900, 95 % below 0.9",
        ),
        (
            "metric: glossary.line_match, at_least: 0.9",
            4,
            "inconclusive  glossary.line_match >= 0.9  0.900, 95 % above 0.8",
        ),
        (
            "metric: glossary.line_match, arm: base, at_most: 0.2",
            0,
            "pass          base glossary.line_match <= 0.2  0.000, 95 % below 0.0",
        ),
        (
            "metric: general.contains, max_drop: 0.2",
            0,
            "pass          general.contains drop < 0.2  0.010, 95 % below 0.0",
        ),
    ],
    ids=["pass", "fail", "inconclusive", "another arm", "drop"],
)
def test_other_gates_are_judged_with_the_table_and_status_of_a_run(
    store: Store, command: Command, gate: str, status: int, line: str
) -> None:
    before = content(store)
    found, out, err = command(f"gates:\n  - {{{gate}}}\n")
    assert found == status, err
    lines = out.splitlines()
    assert lines[0].split() == ["metric", "base", "tuned", "best", "rule", "n"]
    assert any(each.startswith(line) for each in lines), out
    assert lines[-1].startswith("verdict: ")
    assert content(store) == before, "nothing is written"


def test_the_verdict_is_kept_only_where_that_is_asked_for(store: Store, command: Command) -> None:
    before = content(store)
    command("gates: [{metric: glossary.line_match, at_least: 0.8}]", "--save")
    after = content(store)
    kept = json.loads(after.pop("medical/1/verdict-strict.json"))
    assert after == before
    assert [(each["outcome"], each["gate"]["at_least"]) for each in kept["results"]] == [("pass", 0.8)]


@pytest.mark.parametrize(
    ("gates", "problem"),
    [
        (
            "gates:\n  - {metric: glossary.f1, at_least: 1}",
            "line 2, gates.0.metric: no set declares 'glossary.f1'",
        ),
        (
            "gates:\n  - {metric: glossary.line_match, at_leest: 1}",
            "line 2, gates.0.at_leest: unknown key; did you mean 'at_least'?",
        ),
        (
            "gates:\n  - {metric: glossary.line_match, arm: few_shot, at_least: 1}",
            "line 2, gates.0.arm: few_shot has no glossary.line_match; it is there for: ",
        ),
        (
            "gates:\n  - {metric: general.contains, gain_over: best_baseline, at_least: 1}",
            "line 2, gates.0.gain_over: best_baseline has no general.contains; it is there for: ",
        ),
        ("gates: []", "line 1, gates: Tuple should have at least 1 item"),
        ("gate: []", "line 1, gate: unknown key; did you mean 'gates'?"),
        ("- {}", "is a list; a gates file is a map with one key, `gates`"),
        ("gates: [\n", "line 2: is not YAML"),
    ],
    ids=["metric", "key", "arm", "baseline", "none", "top", "list", "no YAML"],
)
def test_bad_gates_are_named_with_their_line(command: Command, gates: str, problem: str) -> None:
    status, out, err = command(gates)
    assert (status, out) == (2, "")
    assert f"  {problem}" in err


def test_a_run_that_has_measured_nothing_or_is_not_there_is_told(command: Command) -> None:
    gates = "gates: [{metric: glossary.line_match, at_least: 0.8}]"
    status, _, err = command(gates, run="medical")
    assert (status, err) == (2, "error: run medical/2 has no finished stage 'evaluate'; finished: none\n")
    status, _, err = command(gates, run="medical@7")
    assert (status, err) == (2, "error: no run 'medical@7'; medical has: latest, 1, 2\n")


def test_a_damaged_report_is_named(store: Store, command: Command) -> None:
    store.write(f"{EVALUATED}/report.json", b"{}")
    status, _, err = command("gates: [{metric: glossary.line_match, at_least: 0.8}]")
    assert status == 1
    assert "report.json is not a report of this version; delete its folder" in err


SPEC = """\
version: 1
name: medical
base_model: {kind: folder, path: a}
data: {sources: [{kind: file, path: a.jsonl, task: price}]}
models: {judge: {kind: endpoint, model: judge-x}}
method: {kind: full}
evaluation:
  sets:
    price: {task: price, metrics: [{kind: judge, judge: judge, criteria: {worth: a}, golden: golden.jsonl}]}
  gates: [{metric: price.judge, at_least: 0.5}]
"""


@pytest.mark.parametrize(("min_spearman", "status"), [(0.9, 0), (0.99, 4)], ids=["trusted", "advisory"])
def test_a_judge_is_held_to_what_the_spec_of_the_run_asks_of_it(
    store: Store, tmp_path: Path, capfd: pytest.CaptureFixture[str], min_spearman: float, status: int
) -> None:
    (tmp_path / "medical.yaml").write_text(SPEC)
    bound = f"evaluation.sets.price.metrics.0.min_spearman={min_spearman}"
    spec = load(tmp_path / "medical.yaml", overrides=[bound]).spec
    with serving(
        Endpoint(lambda body: scored(min(10, worth(answer_in(body)) + len(str(body)) % 2)))
    ) as endpoint:
        report = JudgedRun(tmp_path, endpoint).report()
    (store.folder(EVALUATED) / "report.json").write_text(report.model_dump_json())
    record = find_run(store, "medical@1")
    save(store, record.model_copy(update={"spec": spec.model_dump(mode="json")}))
    (tmp_path / "gates.yaml").write_text("gates: [{metric: price.judge, at_least: 0.6}]")
    assert main(["decide", "medical@1", "--gates", "gates.yaml"]) == status
    lines = capfd.readouterr().out.splitlines()
    assert any(each.startswith("advisory      price.judge: no gate passes") for each in lines) == (
        status == 4
    )


def test_a_run_whose_spec_is_of_another_version_is_told(store: Store, command: Command) -> None:
    """Its spec has the bounds of its judges."""
    report = json.loads(store.read(f"{EVALUATED}/report.json"))
    judge = {
        "set": "glossary",
        "metric": "judge",
        "kind": "judge",
        "role": "judge",
        "who": "someone",
        "reported_models": [],
        "by_probability": False,
        "criteria": {},
        "repeats": 1,
        "asked": 0,
        "unscored": 0,
        "faults": {},
        "unseen": 0,
        "is_tuned_or_base": False,
        "is_teacher": False,
        "calibration": None,
    }
    store.write(f"{EVALUATED}/report.json", json.dumps({**report, "judges": [judge]}).encode())
    status, _, err = command("gates: [{metric: glossary.line_match, at_least: 0.8}]")
    assert status == 2
    assert "the spec of run medical@1 is none of this version of Tunebook (version: Field required)" in err
