"""Advice by the real command, beside a run that came to its verdict."""

from __future__ import annotations

import json

from tests.integration.project import Project


def test_a_run_begins_with_advice_and_a_repeated_one_goes_by_what_was_measured(finished: Project) -> None:
    first = (finished.folder / "first.log").read_text()
    told = [line.split(maxsplit=2)[2] for line in first.splitlines() if " advice " in line]
    assert [line.partition(":")[0] for line in told] == ["prompting", "against it"]
    assert first.index(" advice ") < first.index("replay")
    status, output = finished.run("run", "tiny", "--profile", "local")
    assert status == 0, output
    told = [line.split(maxsplit=2)[2] for line in output.splitlines() if " advice " in line]
    assert told[0].startswith("tuning: colour.exact_match ")
    assert "(run tiny@" in told[0]


def test_advice_goes_by_the_data_set_and_the_report_of_a_run(finished: Project) -> None:
    status, output = finished.run("advise", "tiny", "--profile", "local", "--json")
    assert status == 0, output
    advice = json.loads(output)
    assert advice["way"] == "tuning"
    assert "(data set tiny/stages/prepare-" in advice["rests_on"][1]
    costs = {each["way"]: each for each in advice["costs"]}
    assert costs["tuning"]["update_s"] > 0
    assert costs["tuning"]["prompt_tokens"] <= costs["prompting"]["prompt_tokens"]
    assert costs["prompting"]["seconds"] > 0


def test_all_specs_of_a_folder_in_one_table(finished: Project) -> None:
    status, output = finished.run("scenarios", "specs", "--profile", "local")
    assert status == 0, output
    row = [line for line in output.splitlines() if line.strip()][-1].split()
    assert row[:3] == ["tiny", "pass", "colour.exact_match"]
