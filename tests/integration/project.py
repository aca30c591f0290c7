"""A project folder of a user, and the command run in it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

TOPICS = ("sky", "grass", "snow", "coal", "blood", "sun", "sea", "rose", "leaf", "milk")
COLOURS = ("blue", "green", "white", "black", "red", "yellow", "grey", "pink", "brown", "violet")

SPEC = """\
version: 1
name: tiny
problem: A tiny model does not know our colours.
base_model: {kind: folder, path: models/tiny llama, chat_template_kwargs: {date_string: 26 Jul 2024}}
data:
  system: Name the colour.
  sources:
    - {kind: file, path: my rows.jsonl, task: colour, split: {group_by: topic, test: 0.2, validation: 0.1}}
  replay: {share: 0.2, max_tokens: 16, max_prompts: 40}
  checks: {min_response_chars: 2}
method:
  {kind: full, epochs: 12, learning_rate: 1.0e-2, tokens_per_step: 1024, checkpoint_every_steps: 5,
   parallel_strategy: fsdp}
evaluation:
  decoding: {max_tokens: 16}
  sets:
    colour:
      task: colour
      metrics: [exact_match, {kind: judge, judge: critic, criteria: {short: The answer is one word.}}]
    own: {file: own.jsonl, metrics: [contains]}
    texts: {texts: fixed_texts, metrics: [log_likelihood]}
  gates:
    - {metric: colour.exact_match, gain_over: best_baseline, at_least: 0.3}
models:
  critic: {kind: scripted, script: [{pattern: .*, answers: ['{"reason": "It is.", "score": 7}']}]}
profiles:
  local: {}
"""
HOSTED = """\
  hosted:
    base_model: {chat_template_kwargs: {date_string: null}}
    data: {replay: null}
    method: {kind: hosted, model: gpt-4o-mini-2024-07-18, hyperparameters: {n_epochs: 3}, suffix: colours}
    evaluation: {sets: {colour: {metrics: [exact_match]}, texts: null}}
"""
"""A profile more, of a model that a provider trains and serves."""


@dataclass
class Project:
    """A folder with a spec, its rows and its model, and the command to run there."""

    folder: Path
    environment: dict[str, str] = field(default_factory=lambda: {"TUNEBOOK_CPUS_PER_WORKER": "1"})
    """In a model this small a second thread saves nothing, and on a busy machine the first waits for it."""

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "tunebook_cli", *arguments]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, timeout_s: float = 400) -> tuple[int, str]:
        """Exit status, and stdout and stderr together."""
        process = self.start(*arguments)
        try:
            output, _ = process.communicate(timeout=timeout_s)
        finally:
            kill(process)
        return process.returncode, output

    def run_until(self, seen: Callable[[], bool], *arguments: str, timeout_s: float = 200) -> str:
        """Start, and kill everything with SIGKILL as soon as a condition holds; what it had printed."""
        process = self.start(*arguments)
        deadline = time.monotonic() + timeout_s
        try:
            while not seen():
                assert process.poll() is None, f"ended by itself:\n{process.communicate()[0]}"
                assert time.monotonic() < deadline, "the condition never held"
                time.sleep(0.05)
        finally:
            kill(process)
        return process.communicate()[0]

    def stage(self, name: str) -> Path:
        """The folder of the newest stage of that name."""
        found = (self.folder / "runs" / "tiny" / "stages").glob(f"{name}-*")
        folders = [path for path in found if path.is_dir()]
        return max(folders, key=lambda path: path.stat().st_mtime)

    def record(self, number: str = "latest") -> dict[str, object]:
        content = (self.folder / "runs" / "tiny" / number / "run.json").read_text()
        return dict(json.loads(content))


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL for a process group; its orphans end by themselves."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def make_project(folder: Path, model: Path) -> Project:
    shutil.copytree(model, folder / "models" / "tiny llama")
    rows = [
        {
            "topic": f"{topic}-{number}",
            "messages": [
                {"role": "user", "content": f"What colour is the {topic} number {number}?"},
                {"role": "assistant", "content": colour},
            ],
        }
        for topic, colour in zip(TOPICS, COLOURS, strict=True)
        for number in range(12)
    ]
    lines = [json.dumps(row) for row in rows]
    lines.insert(3, '{"messages": [{"role": "user", "content": "no answer"}]}')
    lines.insert(7, "{ not json")
    (folder / "my rows.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "own.jsonl").write_text('{"expected_contains": "4", "q": "What is two and two, all in all?"}\n')
    (folder / "specs").mkdir()
    spec = SPEC.replace("models/", "../models/").replace("my rows", "../my rows").replace("own.", "../own.")
    (folder / "specs" / "tiny.yaml").write_text(spec)
    return Project(folder)
