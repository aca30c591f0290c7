"""A behaviour that is not wanted is trained away by preferences, by the real command."""

from __future__ import annotations

import json
from pathlib import Path

from tests.integration.project import COLOURS, TOPICS, Project

SPEC = """\
version: 1
name: tiny
base_model: {kind: folder, path: ../models/tiny llama}
data:
  system: Name the colour.
  sources:
    - {kind: file, path: ../my rows.jsonl, task: colour, split: {group_by: topic, test: 0.2, validation: 0.1}}
  checks: {min_response_chars: 2}
method:
  {kind: lora, epochs: 2, learning_rate: 1.0e-2, tokens_per_step: 1024, objective: {kind: dpo, beta: 0.3}}
evaluation:
  decoding: {max_tokens: 8}
  arms: [base, tuned]
  sets:
    colour: {task: colour, metrics: [{kind: regex, pattern: '^Yes'}]}
  gates:
    - {metric: colour.regex, arm: base, at_least: 0.5}
    - {metric: colour.regex, at_most: 0.5}
"""


def test_a_model_that_says_yes_to_everything_learns_not_to(project: Project) -> None:
    rows = [
        {
            "topic": f"{topic}-{number}",
            "input": {"messages": [{"role": "user", "content": f"What colour is {topic} {number}?"}]},
            "preferred_output": [{"role": "assistant", "content": colour}],
            "non_preferred_output": [{"role": "assistant", "content": "Yes."}],
        }
        for topic, colour in zip(TOPICS, COLOURS, strict=True)
        for number in range(12)
    ]
    (project.folder / "my rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (project.folder / "specs" / "tiny.yaml").write_text(SPEC)
    status, output = project.run("run", "tiny")
    assert status == 0, output
    entries = read_metrics(project.stage("train"))
    last = entries[-1]
    assert last["validation_rewards/accuracies"] == 1
    assert last["validation_rewards/chosen"] > last["validation_rewards/rejected"]
    found = json.loads((project.stage("train") / "artifact.json").read_text())["result"]
    assert found["validation_accuracy"] == 1
    assert "100.0% of pairs as preferred" in output
    report = project.folder / "runs" / "tiny" / "latest" / "report.html"
    assert "loss per pair" in report.read_text()


def read_metrics(stage: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
