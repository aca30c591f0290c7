"""What answers took: tokens, time, and money where it is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunebook_eval.answers import SUMMARY, Answer, AnswerResult
from tunebook_eval.evidence import ArmCost, QueryCost

if TYPE_CHECKING:
    from tunebook_eval.judging import JudgeRun


def read_result(folder: Path) -> AnswerResult:
    """What `answer` said of the arm whose folder this is."""
    return AnswerResult.model_validate_json((folder / SUMMARY).read_bytes())


def arm_cost(result: AnswerResult) -> ArmCost:
    return ArmCost(**result.model_dump(include=set(ArmCost.model_fields)))


def judge_cost(run: JudgeRun) -> ArmCost:
    return ArmCost(
        arm=f"judge {run.role}",
        num_answers=run.answers,
        num_errors=run.unscored,
        prompt_tokens=run.prompt_tokens,
        completion_tokens=run.completion_tokens,
        seconds=run.seconds,
        cost=run.cost,
    )


def query_costs(
    arms: Mapping[str, Sequence[Answer]], results: Mapping[str, AnswerResult]
) -> Iterator[QueryCost]:
    """Of each set of prompts and each model that answered it."""
    for arm, answers in arms.items():
        by_set: dict[str, list[Answer]] = {}
        for each in answers:
            if each.rule is None and each.log_likelihood is None and each.error is None:
                by_set.setdefault(each.set, []).append(each)
        for name, of_set in by_set.items():
            timed = results[arm].timed.get(name)
            num = len(of_set)
            prompt_tokens = sum(each.prompt_tokens for each in of_set) / num
            answer_tokens = sum(each.completion_tokens for each in of_set) / num
            prices = results[arm].prices
            yield QueryCost(
                set=name,
                arm=arm,
                num_queries=num,
                prompt_tokens=prompt_tokens,
                cached_tokens=sum(each.cached_tokens for each in of_set) / num,
                answer_tokens=answer_tokens,
                cost=prices and (prices[0] * prompt_tokens + prices[1] * answer_tokens) / 1_000_000,
                num_timed=timed.num_answers if timed else 0,
                seconds=timed.seconds / timed.num_answers if timed and timed.num_answers else None,
                is_remote=results[arm].is_remote,
            )


def of_shared_sets(costs: Sequence[QueryCost]) -> list[QueryCost]:
    """One for each arm, over the sets that all arms answered; none where there is no such set.

    A set weighs as many queries as it has, whatever part of them could be timed.
    """
    arms = {arm: [each for each in costs if each.arm == arm] for arm in dict.fromkeys(c.arm for c in costs)}
    shared = set.intersection(*({each.set for each in of} for of in arms.values())) if arms else set()
    return [_together(arm, [each for each in of if each.set in shared]) for arm, of in arms.items() if shared]


def _together(arm: str, costs: Sequence[QueryCost]) -> QueryCost:
    num = sum(each.num_queries for each in costs)

    def mean(values: Sequence[float]) -> float:
        return sum(each.num_queries * v for each, v in zip(costs, values, strict=True)) / num

    seconds = [each.seconds for each in costs if each.seconds is not None]
    return QueryCost(
        set=", ".join(each.set for each in costs),
        arm=arm,
        num_queries=num,
        prompt_tokens=mean([each.prompt_tokens for each in costs]),
        cached_tokens=mean([each.cached_tokens for each in costs]),
        answer_tokens=mean([each.answer_tokens for each in costs]),
        num_timed=sum(each.num_timed for each in costs),
        seconds=mean(seconds) if len(seconds) == len(costs) else None,
        is_remote=costs[0].is_remote,
        cost=mean([each.cost for each in costs if each.cost is not None])
        if costs[0].cost is not None
        else None,
    )


def update_seconds(
    stages: Sequence[Mapping[str, Any]], training_metrics: Sequence[Mapping[str, Any]]
) -> float | None:
    """What it takes to train and merge anew; None where the run tells of no training.

    A stage's time is that of the attempt that finished. Steps that a killed one left are added, by the time
    that had passed at the last of them: it starts again at 0 with each attempt.
    """
    seconds = [stage["seconds"] for stage in stages if stage["name"] in ("train", "merge")]
    passed = [each["seconds"] for each in training_metrics if "seconds" in each]
    return sum(seconds) + sum(last for last, next in pairwise(passed) if next < last) if seconds else None
