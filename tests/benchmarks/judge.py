"""Scores by a judge on this machine: ours against a chat server, asked one by one and 32 at once.

Everyone asks the embedded model about the same answers, by the same criterion. We read the mean over the
probabilities of one token, a digit; a chat is asked, as judges mostly are, for JSON with a reason and a
score. Answers hold a known share of what is right, so that a rank correlation with that share can be told.
What is timed are the judgements: engine and server, both without compilation, have answered once before.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

from tests.benchmarks.harness import US, Answer, BenchError, Benchmark, Peer
from tunebook_data import judge as of_data
from tunebook_data.answer_schema import Schema
from tunebook_data.datasets.medical_glossary import rows as glossary_rows
from tunebook_eval.judge_questions import SCORE, score
from tunebook_model import builtin
from tunebook_model.conversation import Message
from tunebook_model.precision import compute_dtype
from tunebook_run.settings import Settings

CRITERION = "The answer expands every abbreviation of the note, one a line, and each of them rightly."
REASON = 100
"""Longest reason, in characters: a small model would come to no end."""
SCORED = 0.9
"""The least share of answers of which a score can be read."""
CACHED = 0.5
"""The least share of prompt tokens that we find read for an earlier question."""


def make(folder: Path, size: int) -> None:
    assets = Settings.read().assets_dir
    drawn = random.Random(0)
    prompts, in_json, shares = [], [], []
    for row in glossary_rows("glossary", assets_dir=assets, rows=size):
        lines = row.messages[-1]["content"].splitlines()
        kept = [line if drawn.random() < 0.5 else f"{line.partition(':')[0]}: not known" for line in lines]
        answer: Message = {"role": "assistant", "content": "\n".join(kept)}
        asked = score((*row.messages[:-1], answer), CRITERION)
        prompts.append(of_data.prompt(asked.in_one_token, asked.shown))
        in_json.append(of_data.prompt(asked.in_json, asked.shown))
        shares.append(sum(a == b for a, b in zip(kept, lines, strict=True)) / len(lines))
    told = {
        "model": str(builtin.require(assets)),
        "dtype": compute_dtype().dtype,
        "choices": list(SCORE.choices),
        "messages": prompts,
        "messages_in_json": in_json,
        "schema": _bounded(of_data.SCORE),
        "shares": shares,
    }
    (folder / "judge.json").write_text(json.dumps(told))


def _bounded(schema: Schema) -> Schema:
    told: Schema = json.loads(json.dumps(schema))
    told["properties"]["reason"]["maxLength"] = REASON
    return told


def equal(folder: Path, answers: Mapping[str, Answer]) -> dict[str, Any]:
    """Everyone judged everything and ranks answers no better, and we read once what questions share."""
    shares = json.loads((folder / "judge.json").read_text())["shares"]
    ours: Sequence[float] = answers[US]["scores"]
    scored, with_shares, with_us = {}, {}, {}
    for name, answer in answers.items():
        scores = answer["scores"]
        scored[name] = len(scores) - scores.count(None)
        if len(scores) != len(shares) or scored[name] < SCORED * len(shares):
            raise BenchError(f"{name} scored {scored[name]} of {len(shares)} answers")
        read = [number for number, each in enumerate(scores) if each is not None]
        told = [scores[number] for number in read]
        with_shares[name] = _rank(told, [shares[number] for number in read])
        with_us[name] = _rank(told, [ours[number] for number in read])
        if with_shares[name] - with_shares[US] > 2 * math.sqrt(2 / scored[name]):  # standard errors
            raise BenchError(f"rank correlations: {name} {with_shares[name]}, ours {with_shares[US]}")
    cached = answers[US]["cached_tokens"] / answers[US]["prompt_tokens"]
    if cached < CACHED:
        raise BenchError(f"{cached:.0%} of our prompt tokens were cached, less than {CACHED:.0%}")
    return {
        "prompt_tokens": answers[US]["prompt_tokens"],
        "cached": round(cached, 3),
        "scored": scored,
        "spearman_with_shares": with_shares,
        "spearman_with_ours": with_us,
    }


def _rank(scores: Sequence[float], others: Sequence[float]) -> float:
    """Spearman's correlation; of scores that are all the same, none."""
    return round(float(spearmanr(scores, others).statistic), 3) if len(set(scores)) > 1 else 0.0


BENCHMARK = Benchmark(
    name="judge",
    size=500,
    peers=(Peer("concurrent_chat", None), Peer("sequential_chat", None, max_size=25)),
    make=make,
    equal=equal,
)
