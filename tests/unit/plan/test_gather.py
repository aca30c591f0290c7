from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.plan.conftest import Measure
from tunebook_cli.main import main
from tunebook_data.inputs import PrepareInputs
from tunebook_plan import gather
from tunebook_plan.advise import Advice
from tunebook_plan.brief import brief
from tunebook_run.record import save
from tunebook_run.settings import Settings
from tunebook_run.stages import Stage
from tunebook_run.store import Store
from tunebook_spec import LoadedSpec, load


def advise(capfd: pytest.CaptureFixture[str], *arguments: str) -> Advice:
    assert main(["advise", "colours.yaml", "--json", *arguments]) == 0
    return Advice.model_validate_json(capfd.readouterr().out)


def test_before_any_run_it_goes_by_the_sources(loaded: LoadedSpec, capfd: pytest.CaptureFixture[str]) -> None:
    advice = advise(capfd)
    assert advice.way == "prompting"
    assert "45 rows to train on are too few" in advice.reason
    assert (
        "rows to train on: 45 colour; 12 to test on (read from the sources, without a model)"
        in advice.rests_on
    )
    assert not Path("runs").exists(), "nothing is written"


def test_examples_in_a_prompt_repeat_no_system_message(loaded: LoadedSpec) -> None:
    settings = Settings.read()

    def shown(spec: LoadedSpec) -> tuple[float, float]:
        rows = gather.source_rows(spec, settings, lambda *_: None)
        return rows.question_chars, rows.shown_chars

    plain = shown(load(loaded.path, overrides=["data.system=null"]))
    told = shown(load(loaded.path, overrides=[f"data.system={'s' * 100}"]))
    assert told == (pytest.approx(plain[0] + 100), pytest.approx(plain[1]))


def test_the_table_for_people_ends_with_the_advice(
    loaded: LoadedSpec, measure_run: Measure, capfd: pytest.CaptureFixture[str]
) -> None:
    measure_run("n % 10 < 9")
    assert main(["advise", "colours.yaml"]) == 0
    lines = [" ".join(line.split()) for line in capfd.readouterr().out.splitlines()]
    assert "tuning tuned 0.900 ± 0.030 ? 50 0.100 ? train and merge anew 40 s ?" in lines
    assert any(line.startswith("tuning against tuning_forgets measured") for line in lines)
    assert any(
        line.startswith("advice: tuning: colour.exact_match 0.900 tuned, 0.600 few_shot") for line in lines
    )


def test_a_run_of_the_same_profile_that_was_measured_decides(
    loaded: LoadedSpec, measure_run: Measure, capfd: pytest.CaptureFixture[str]
) -> None:
    measure_run("n % 10 < 9")
    advice = advise(capfd)
    assert advice.way == "tuning"
    assert advice.reason.endswith("(run colours@1)")
    assert {each.rule for each in advice.findings} >= {
        "tuning_is_ahead",
        "tuning_forgets",
        "tuning_shortens_prompts",
    }
    assert advice.rests_on[0] == "run colours@1 has measured this spec"
    other = advise(capfd, "--set", "method.epochs=9")
    assert other.rests_on[0] == "run colours@1 has measured an earlier state of this spec"
    needs = advise(capfd, "--set", "needs.private_data=true")
    assert needs.rests_on[0] == "run colours@1 has measured this spec"
    few = ("--profile", "strict", "--set", "data.checks.min_response_chars=2")
    assert advise(capfd, *few).rests_on[0].startswith("no run has measured")


def test_a_run_of_another_version_stops_no_advice(
    loaded: LoadedSpec, store: Store, measure_run: Measure, capfd: pytest.CaptureFixture[str]
) -> None:
    record = measure_run("n % 10 < 9")
    save(store, record.model_copy(update={"spec": {**record.spec, "gone": 1}}))
    assert main(["advise", "colours.yaml"]) == 0
    out, err = capfd.readouterr()
    assert "rests on: no run has measured this spec" in out
    assert "advice goes without run colours@1, which is of another version of Tunebook" in err


def test_the_newest_run_counts_and_few_shot_as_good_as_tuned_wins(
    loaded: LoadedSpec, measure_run: Measure, capfd: pytest.CaptureFixture[str]
) -> None:
    measure_run("n % 10 < 9")
    measure_run("n % 10 < 6 or n == 7")
    advice = advise(capfd)
    assert advice.way == "prompting"
    assert advice.reason.startswith(
        "few_shot is as good as tuned within its interval: colour.exact_match 0.610"
    )
    assert advice.reason.endswith("(run colours@2)")


def test_a_bad_source_exits_2(loaded: LoadedSpec, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", "colours.yaml", "--set", "data.sources.0.path=absent.jsonl"]) == 2
    assert "no such file" in capfd.readouterr().err


def test_two_lines_are_kept_until_something_that_decides_them_changes(
    loaded: LoadedSpec, store: Store, measure_run: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.read()
    prepare = Stage.of("colours", "prepare", PrepareInputs.of(loaded.spec))
    first = brief(loaded, settings, prepare)
    assert first[0].startswith("prompting: under 100 examples teach little (45 rows")
    with monkeypatch.context() as patch:
        patch.delattr(gather, "gather")  # nothing is looked at again
        assert brief(loaded, settings, prepare) == first
    changed = load(loaded.path, overrides=["needs.tight_budget=true"])
    assert "cost before the first answer" in brief(changed, settings, prepare)[0]
    measure_run("n % 10 < 9")
    assert brief(loaded, settings, prepare)[0].startswith("tuning: colour.exact_match 0.900")


def test_large_sources_are_not_read_for_two_lines(
    loaded: LoadedSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunebook_plan.brief.QUICK_BYTES", 10)
    prepare = Stage.of("colours", "prepare", PrepareInputs.of(loaded.spec))
    assert brief(loaded, Settings.read(), prepare)[0].startswith("prompting: a prompt is changed in a minute")


def test_advice_loads_no_library_of_a_stage(loaded: LoadedSpec, measure_run: Measure) -> None:
    measure_run("n % 10 < 9")
    heavy = "[name for name in ('torch', 'transformers', 'ray', 'vllm', 'matplotlib') if name in sys.modules]"
    arguments = ["advise", "colours.yaml", "--json"]
    code = f"import sys; from tunebook_cli.main import main\nprint(main({arguments}), {heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told, _, last = done.stdout.rstrip().rpartition("\n")
    assert last == "0 []"
    assert json.loads(told)["way"] == "tuning"
