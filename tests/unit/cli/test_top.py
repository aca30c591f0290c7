from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tunebook_cli.main import main
from tunebook_run.record import find_run, save
from tunebook_run.store import Store

TRAIN, ANSWER = "medical/stages/train-0123456789ab", "medical/stages/answer-tuned-0123456789ab"
STEPS = [
    {"num_steps": 8},
    {"step": 1, "epoch": 0, "loss": 4.0, "eta_s": 7.0},
    {"step": 2, "epoch": 0, "loss": 2.0, "eta_s": 6.0},
]


def steps(store: Store, num: int) -> None:
    store.write(f"{TRAIN}/metrics.jsonl", "".join(json.dumps(each) + "\n" for each in STEPS[:num]).encode())


@pytest.fixture
def running(store: Store) -> Store:
    """The first run is training."""
    change = {"status": "running", "under_way": TRAIN, "profile": "local"}
    save(store, find_run(store, "medical@1").model_copy(update=change))
    return store


def test_a_run_that_trains_shows_its_stages_its_step_and_its_curve(
    running: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    steps(running, 3)
    assert main(["top", "medical@1"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith("medical@1  running, ")
    assert "  evaluate           done in 1.0 s" in lines
    assert any(re.match(r"> train              its last word \d+ s ago", line) for line in lines)
    assert "step 2 of 8, epoch 1  [#####               ] 25%, about 6 s left" in lines


def test_a_stage_that_asks_a_model_shows_how_many_answers_there_are(
    running: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    record = find_run(running, "medical@1")
    save(running, record.model_copy(update={"under_way": ANSWER}))
    running.write(f"{ANSWER}/answers.jsonl", b"{}\n{}\n{}\n")
    assert main(["top", "medical@1"]) == 0
    out = capfd.readouterr().out
    assert re.search(r"> answer-tuned       3 answers, its last word \d+ s ago", out)


def test_on_a_terminal_it_goes_on_until_the_run_ends(running: Store, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "tunebook_cli", "top", "medical@1", "--every", "0.1"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    process = subprocess.Popen(command, cwd=tmp_path, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    seen = b""

    def until(wanted: bytes) -> None:
        nonlocal seen
        deadline = time.monotonic() + 60
        while wanted not in seen:
            assert time.monotonic() < deadline, seen
            seen += os.read(ours, 4096)

    try:
        until(b"> train")
        steps(running, 2)
        until(b"step 1 of 8")
        steps(running, 3)
        until(b"step 2 of 8")
        record = find_run(running, "medical@1")
        ended = {"status": "fail", "under_way": None, "finished_at": record.started_at}
        save(running, record.model_copy(update={**ended, "verdict": ("verdict: fail",)}))
        until(b"verdict: fail")
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
