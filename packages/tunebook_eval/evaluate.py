"""Stage `evaluate`: the answers of all arms to evidence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from pydantic import ValidationError

from tunebook_eval.answers import FILE, SUMMARY, Answer, AnswerResult, read_answers
from tunebook_eval.evidence import ArmCost, ArmOnSet, ArmScores, Estimate, EvalReport, Flip
from tunebook_eval.examples import choose_examples
from tunebook_eval.inputs import EvaluateInputs
from tunebook_eval.scorers import score
from tunebook_eval.statistics import clustered_stderr, mean_bounds
from tunebook_spec.errors import StageError
from tunebook_spec.models import Metric

REPORT = "report.json"
THIN_GROUPS = 20
THIN_ROWS = 200

Arms = Mapping[str, Sequence[Answer]]
"""The answers of each arm; rules are arms here, under their own names."""


def evaluate(inputs: EvaluateInputs, *, arms: Mapping[str, Path], out: Path) -> EvalReport:
    """Score every answer and say how sure each mean is.

    Args:
        inputs: The metrics of each set.
        arms: The folder that `answer` left, by arm.
        out: Gets `report.json`.
    """
    answers = _by_arm({arm: read_answers(folder / FILE) for arm, folder in arms.items()})
    scores = tuple(_scores(inputs.metrics, answers))
    report = EvalReport(
        scores=scores,
        groups=_groups(answers),
        answering=tuple(_answering(answers)),
        costs=tuple(_cost(folder) for folder in arms.values()),
        flips=tuple(_flips(scores, answers)),
        examples=tuple(choose_examples(inputs.metrics, scores, answers)),
        warnings=tuple(_warnings(scores)),
    )
    (out / REPORT).write_text(report.model_dump_json())
    return report


def read_report(folder: Path) -> EvalReport:
    """The report that `evaluate` left.

    Raises:
        StageError: it is gone, or not a report.
    """
    path = folder / REPORT
    try:
        return EvalReport.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError) as error:
        what = "is not there" if isinstance(error, FileNotFoundError) else "is not a report of this version"
        raise StageError(f"{path} {what}; delete its folder and run the spec again") from None


def _by_arm(folders: Arms) -> Arms:
    """One arm per rule instead of one for all; items sorted, so that the order of finishing is forgotten."""
    arms: dict[str, list[Answer]] = {}
    for arm, answers in folders.items():
        for each in sorted(answers, key=lambda answer: (answer.set, answer.item)):
            arms.setdefault(each.rule or arm, []).append(each)
    return arms


def _scores(metrics: Mapping[str, Sequence[Metric]], arms: Arms) -> Iterator[ArmScores]:
    for name, of_set in metrics.items():
        for metric in of_set:
            for arm, answers in arms.items():
                here = [each for each in answers if each.set == name]
                if here:
                    yield _score_arm(metric, arm, here)


def _score_arm(metric: Metric, arm: str, answers: Sequence[Answer]) -> ArmScores:
    scored = [(each, value) for each in answers if (value := score(metric, each)) is not None]
    by_stratum = sorted(scored, key=lambda pair: pair[0].stratum or "")
    strata = {
        stratum: _estimate(list(pairs))
        for stratum, pairs in groupby(by_stratum, key=lambda pair: pair[0].stratum)
        if stratum is not None
    }
    return ArmScores(
        set=answers[0].set,
        metric=metric,
        arm=arm,
        is_rule=answers[0].rule is not None,
        is_reference=answers[0].is_reference,
        overall=_estimate(scored) if scored else None,
        strata=strata,
        num_unscored=len(answers) - len(scored),
        scores={each.item: value for each, value in scored},
    )


def _estimate(scored: Sequence[tuple[Answer, float]]) -> Estimate:
    values, groups = [value for _, value in scored], [each.group for each, _ in scored]
    bounds = mean_bounds(values, groups, alpha=0.025)
    return Estimate(
        num_samples=len(values),
        num_groups=bounds.num_groups,
        mean=bounds.mean,
        stderr=clustered_stderr(values, groups),
        ci95=None if bounds.low is None or bounds.high is None else (bounds.low, bounds.high),
    )


def _groups(arms: Arms) -> dict[str, dict[str, str]]:
    groups: dict[str, dict[str, str]] = {}
    for answers in arms.values():
        for each in answers:
            groups.setdefault(each.set, {})[each.item] = each.group
    return groups


def _answering(arms: Arms) -> Iterator[ArmOnSet]:
    for arm, answers in arms.items():
        models = [each for each in answers if each.rule is None and each.log_likelihood is None]
        for name, group in groupby(models, key=lambda each: each.set):
            here = list(group)
            yield ArmOnSet(
                set=name,
                arm=arm,
                num_answers=len(here),
                stop_rate=sum(each.finish_reason == "stop" for each in here) / len(here),
                mean_completion_tokens=sum(each.completion_tokens for each in here) / len(here),
            )


def _cost(folder: Path) -> ArmCost:
    result = AnswerResult.model_validate_json((folder / SUMMARY).read_bytes())
    return ArmCost(**result.model_dump(include=set(ArmCost.model_fields)))


def _flips(scores: Sequence[ArmScores], arms: Arms) -> Iterator[Flip]:
    """Items of general suites whose rightness changed, lost ones first."""
    found = []
    for tuned in scores:
        if tuned.metric != "contains" or tuned.arm != "tuned":
            continue
        base = next(
            each for each in scores if (each.set, each.metric, each.arm) == (tuned.set, "contains", "base")
        )
        texts = {
            arm: {each.item: each for each in arms[arm] if each.set == tuned.set} for arm in ("base", "tuned")
        }
        for item in sorted(base.scores.keys() & tuned.scores.keys()):
            if base.scores[item] != tuned.scores[item]:
                before, after = texts["base"][item], texts["tuned"][item]
                found.append(
                    Flip(
                        set=tuned.set,
                        item=item,
                        question=after.question,
                        lost=tuned.scores[item] < base.scores[item],
                        base=before.text,
                        tuned=after.text,
                    )
                )
    yield from sorted(found, key=lambda flip: not flip.lost)


def _warnings(scores: Sequence[ArmScores]) -> Iterator[str]:
    for each in scores:
        if each.arm != "tuned":
            continue
        where, overall = f"{each.set}.{each.metric}", each.overall
        if overall is None:
            yield f"{where}: nothing could be scored"
        elif overall.num_groups < THIN_GROUPS or overall.num_samples < THIN_ROWS:
            yield (
                f"{where} is thin: {overall.num_samples} rows in {overall.num_groups} groups; "
                f"{THIN_ROWS} in {THIN_GROUPS} are a sound least"
            )
        if each.num_unscored:
            yield f"{where}: {each.num_unscored} answers could not be scored"
