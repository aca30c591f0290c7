"""Scores by a judge on this machine: ours against a chat server, asked one by one and 32 at once.

Everyone asks the embedded model the same question of the same answers and reads the mean over the
probabilities of one token, a digit. Answers hold a known share of what is right, so that a rank correlation
with that share can be told. What is timed are the judgements: engine and server have answered once before.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

from tests.benchmarks.harness import US, Answer, BenchError, Benchmark, Peer
from tunebook_data import judge as of_data
from tunebook_data.datasets.medical_glossary import rows as glossary_rows
from tunebook_eval.judge_questions import SCORE, score
from tunebook_model import builtin
from tunebook_model.conversation import Message
from tunebook_model.precision import compute_dtype
from tunebook_run.settings import Settings

CRITERION = "The answer expands every abbreviation of the note, one a line, and each of them rightly."
AS_GOOD = 0.03
"""By this much rank correlations may differ: sums are rounded in another order."""
CACHED = 0.5
"""The least share of prompt tokens that we find read for an earlier question."""


def make(folder: Path, size: int) -> None:
    assets = Settings.read().assets_dir
    drawn = random.Random(0)
    prompts, shares = [], []
    for row in glossary_rows("glossary", assets_dir=assets, rows=size):
        lines = row.messages[-1]["content"].splitlines()
        kept = [line if drawn.random() < 0.5 else f"{line.partition(':')[0]}: not known" for line in lines]
        answer: Message = {"role": "assistant", "content": "\n".join(kept)}
        asked = score((*row.messages[:-1], answer), CRITERION)
        prompts.append(of_data.prompt(asked.in_one_token, asked.shown))
        shares.append(sum(a == b for a, b in zip(kept, lines, strict=True)) / len(lines))
    told = {
        "model": str(builtin.require(assets)),
        "dtype": compute_dtype().dtype,
        "choices": list(SCORE.choices),
        "messages": prompts,
        "shares": shares,
    }
    (folder / "judge.json").write_text(json.dumps(told))


def equal(folder: Path, answers: Mapping[str, Answer]) -> dict[str, Any]:
    """Everyone judged everything and ranks answers as well, and we read once what questions share."""
    shares = json.loads((folder / "judge.json").read_text())["shares"]
    ours: Sequence[float] = answers[US]["scores"]
    with_shares, with_us = {}, {}
    for name, answer in answers.items():
        scores = answer["scores"]
        if len(scores) != len(shares) or None in scores:
            raise BenchError(f"{name} scored {len(scores) - scores.count(None)} of {len(shares)} answers")
        with_shares[name] = round(float(spearmanr(scores, shares).statistic), 3)
        with_us[name] = round(float(spearmanr(scores, ours).statistic), 3)
        if abs(with_shares[name] - with_shares[US]) > AS_GOOD:
            raise BenchError(f"rank correlations differ: {name} {with_shares[name]}, ours {with_shares[US]}")
    cached = answers[US]["cached_tokens"] / answers[US]["prompt_tokens"]
    if cached < CACHED:
        raise BenchError(f"{cached:.0%} of our prompt tokens were cached, less than {CACHED:.0%}")
    return {
        "prompt_tokens": answers[US]["prompt_tokens"],
        "cached": round(cached, 3),
        "spearman_with_shares": with_shares,
        "spearman_with_ours": with_us,
    }


BENCHMARK = Benchmark(
    name="judge",
    size=500,
    peers=(Peer("sequential_chat", None), Peer("concurrent_chat", None)),
    make=make,
    equal=equal,
)
