"""Scores of what a server has logged: each model that answered, and pairs of a model and its shadow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunebook_data.personal_data import scan
from tunebook_eval.answers import Answer
from tunebook_eval.changes import paired_changes
from tunebook_eval.evaluate import score_always, score_arm
from tunebook_eval.evidence import ArmScores, Change
from tunebook_eval.scorers import score_all
from tunebook_eval.sets import Item
from tunebook_eval.shots import Embed
from tunebook_run.table import add_row, lines, new_table
from tunebook_run.traffic_log import LoggedAnswer
from tunebook_spec.metrics import ALWAYS, AnyMetric, needs_reference, scores_alone

Pair = tuple[str, str]
"""What answered a client, and the shadow that was asked the same."""


@dataclass(frozen=True)
class LogScores:
    num_answers: dict[str, int]
    """By model."""
    num_known: int
    """Answers to questions of the spec's own test rows, whose reference is known."""
    scores: tuple[ArmScores, ...]
    """By set, metric and model."""
    changes: dict[Pair, tuple[Change, ...]]
    """The shadow minus what answered the client, request by request, p-values by Holm for each pair."""
    left_out: tuple[str, ...]
    """Metrics that a log cannot be scored by."""


def score_log(
    metrics: Mapping[str, Sequence[AnyMetric]],
    rows: Sequence[LoggedAnswer],
    items: Sequence[Item],
    *,
    other_set: str,
    embed: Embed | None = None,
) -> LogScores:
    """Score every answer by the metrics of its set.

    An answer to a test row's question is of every set that asks it, and has its reference and its group.
    Any other is of `other_set`, a group of its own with equal questions, and is scored by what needs no
    reference.

    Args:
        metrics: Of each set.
        rows: What a server has logged.
        items: Questions with a reference.
        other_set: The set of all other questions.
        embed: For metrics that compare meanings.
    """
    known: dict[str, dict[str, Item]] = {}
    for item in items:
        if item.messages and item.reworded is None:
            key = _key((each["role"], each["content"]) for each in item.messages)
            known.setdefault(key, {}).setdefault(item.set, item)
    by_model: dict[str, list[_Logged]] = {}
    for row in rows:
        key = _key((each.role, each.content) for each in row.messages)
        asked_by: Sequence[Item | None] = [*known.get(key, {}).values()] or [None]
        answers = tuple(_answer(row, key, item, other_set) for item in asked_by)
        by_model.setdefault(row.model, []).append(_Logged(row, answers))
    models = sorted(by_model)
    scores = tuple(score for model in models for score in _scores(metrics, model, by_model[model], embed))
    groups: dict[str, dict[str, str]] = {}
    for each in (answer for model in models for logged in by_model[model] for answer in logged.answers):
        groups.setdefault(each.set, {})[each.item] = each.group
    return LogScores(
        num_answers={model: len(by_model[model]) for model in models},
        num_known=sum(any(map(_has_reference, each.answers)) for of in by_model.values() for each in of),
        scores=scores,
        changes=dict(_changes(scores, rows, groups)),
        left_out=tuple(
            f"{name}.{each.label}" for name, of in metrics.items() for each in of if not scores_alone(each)
        ),
    )


def describe(found: LogScores) -> str:
    """The scores for people: each model's mean, and for each shadow how it differs."""
    models = list(found.num_answers)
    table = new_table("metric", *models, right=models)
    by_metric: dict[tuple[str, str], dict[str, ArmScores]] = {}
    for each in found.scores:
        by_metric.setdefault((each.set, each.metric), {})[each.arm] = each
    for at, of in by_metric.items():
        add_row(table, (".".join(at), *(_cell(of.get(model)) for model in models)))
    parts = [lines(table), *(_pair_lines(pair, changes) for pair, changes in found.changes.items())]
    counts = ", ".join(f"{num} of {model}" for model, num in found.num_answers.items())
    total = sum(found.num_answers.values())
    end = [f" {total} answers: {counts}; {found.num_known} to questions whose reference is known"]
    if found.left_out:
        end.append(f" a log is not scored by {', '.join(found.left_out)}")
    return "\n\n".join("\n".join(part) for part in (*parts, end))


@dataclass(frozen=True)
class _Logged:
    row: LoggedAnswer
    answers: tuple[Answer, ...]
    """What it says to each set that asks its question."""


def _answer(row: LoggedAnswer, key: str, item: Item | None, other_set: str) -> Answer:
    facts: dict[str, Any] = {}
    if item is not None:
        facts = {"reference": item.reference, "expected": item.expected, "meta": dict(item.meta)}
        facts |= {"stratum": item.stratum}
    ends = {"length": "length", "error": "error"}
    return Answer(
        set=item.set if item else other_set,
        item=row.id,
        question=row.messages[-1].content,
        text=row.text,
        finish_reason=ends.get(row.finish_reason, "stop"),
        prompt_tokens=row.prompt_tokens or 0,
        completion_tokens=row.completion_tokens or 0,
        error=row.error,
        group=item.group if item else key,
        **{"reference": None, **facts},
    )


def _key(messages: Iterable[tuple[str, str]]) -> str:
    """The same for the same roles and contents, whether or not a log has masked them."""
    said = [(role, scan(content)[0]) for role, content in messages]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def _has_reference(answer: Answer) -> bool:
    return answer.reference is not None or bool(answer.expected)


def _scores(
    metrics: Mapping[str, Sequence[AnyMetric]], model: str, logged: Sequence[_Logged], embed: Embed | None
) -> Iterator[ArmScores]:
    """Of one model; an answer whose tokens nobody has counted says nothing of its length."""
    for name, of_set in metrics.items():
        here = [(each.row, answer) for each in logged for answer in each.answers if answer.set == name]
        answers = [answer for _, answer in here]
        for metric in of_set:
            scored = [each for each in answers if not needs_reference(metric) or _has_reference(each)]
            if scored and scores_alone(metric):
                yield from score_arm(metric, model, scored, score_all(metric, scored, embed))
        counted = [answer for row, answer in here if row.completion_tokens is not None or row.error]
        for only, metric_name in zip((answers, counted), ALWAYS, strict=True):
            if only:
                yield next(each for each in score_always(model, only) if each.metric == metric_name)


def _changes(
    scores: Sequence[ArmScores], rows: Sequence[LoggedAnswer], groups: Mapping[str, Mapping[str, str]]
) -> Iterator[tuple[Pair, tuple[Change, ...]]]:
    first = {row.id: row.model for row in rows if not row.is_shadow}
    pairs: dict[Pair, set[str]] = {}
    for row in rows:
        if row.is_shadow and row.id in first:
            pairs.setdefault((first[row.id], row.model), set()).add(row.id)
    by_model = {(each.arm, each.set, each.metric): each for each in scores}
    for (one, other), ids in sorted(pairs.items()):
        sides = [
            (_only(each, ids), _only(by_model[other, each.set, each.metric], ids))
            for each in scores
            if each.arm == one and (other, each.set, each.metric) in by_model
        ]
        yield (one, other), tuple(paired_changes(sides, groups))


def _only(scores: ArmScores, ids: set[str]) -> ArmScores:
    return scores.model_copy(update={"scores": {id: v for id, v in scores.scores.items() if id in ids}})


def _cell(scores: ArmScores | None) -> str:
    if scores is None or scores.overall is None:
        return "-"
    return f"{scores.overall.shown} (n={scores.overall.num_samples})"


def _pair_lines(pair: Pair, changes: Sequence[Change]) -> list[str]:
    one, other = pair
    numbers = ("difference", "95 % interval", "p", "p by Holm", "n")
    table = new_table(f"{other} minus {one}, on the same requests", *numbers, right=numbers)
    for each in changes:
        add_row(table, (f"{each.set}.{each.metric}", *each.shown))
    return lines(table)
