"""Stage `evaluate`: the answers of all arms to evidence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from pydantic import ValidationError

from tunebook_eval.answers import FILE, Answer, read_answers
from tunebook_eval.changes import paired_changes
from tunebook_eval.costs import arm_cost, judge_cost, query_costs, read_result
from tunebook_eval.evidence import REPORT, ArmScores, Change, Estimate, EvalReport, Flip, JudgeEvidence
from tunebook_eval.examples import choose_examples
from tunebook_eval.inputs import EvaluateInputs
from tunebook_eval.judged import Judgements
from tunebook_eval.scorers import Scores, score_all
from tunebook_eval.shots import Embed
from tunebook_spec.errors import StageError
from tunebook_spec.metrics import ALWAYS, AnyMetric, Consistency, Judged, Pairwise, is_headline

THIN_GROUPS = 20
THIN_ROWS = 200

YES_OR_NO = ("contains", "exact_match", "choice_accuracy", "numeric", "regex")
"""Metrics that say one of two things of an answer to a suite."""

Arms = Mapping[str, Sequence[Answer]]
"""The answers of each arm; rules are arms here, under their own names."""


def evaluate(
    inputs: EvaluateInputs,
    *,
    arms: Mapping[str, Path],
    judges: Mapping[str, Path],
    out: Path,
    embed: Embed | None = None,
) -> EvalReport:
    """Score every answer and say how sure each mean is.

    Args:
        inputs: The metrics of each set.
        arms: The folder that `answer` left, by arm.
        judges: The folder that `judge_answers` left, by the judge's role.
        out: Gets `report.json`.
        embed: For metrics that compare meanings.
    """
    answers = _by_arm({arm: read_answers(folder / FILE) for arm, folder in arms.items()})
    results = {arm: read_result(folder) for arm, folder in arms.items()}
    judgements = Judgements.read(judges)
    scores, groups = tuple(_scores(inputs.metrics, answers, judgements, embed)), _groups(answers)
    judged = tuple(judgements.evidence(inputs.metrics, groups))
    report = EvalReport(
        scores=scores,
        groups=groups,
        changes=tuple(_changes(scores, groups)),
        costs=(*map(arm_cost, results.values()), *map(judge_cost, judgements.runs.values())),
        queries=tuple(query_costs(answers, results)),
        flips=tuple(_flips(inputs.metrics, scores, answers)),
        examples=tuple(choose_examples(inputs.metrics, scores, answers)),
        judges=judged,
        warnings=(*_warnings(scores), *_unfinished(answers["tuned"]), *_doubts(judged)),
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


def _scores(
    metrics: Mapping[str, Sequence[AnyMetric]], arms: Arms, judgements: Judgements, embed: Embed | None
) -> Iterator[ArmScores]:
    for name, of_set in metrics.items():
        here = {arm: found for arm, all_ in arms.items() if (found := [a for a in all_ if a.set == name])}
        for metric in of_set:
            for arm, of_arm in here.items():
                answers = [a for a in of_arm if a.others] if isinstance(metric, Consistency) else of_arm
                if not answers:
                    continue
                if not isinstance(metric, Judged):
                    yield from score_arm(metric, arm, answers, score_all(metric, answers, embed))
                elif arm == "tuned" or (answers[0].rule is None and not isinstance(metric, Pairwise)):
                    said = judgements.scores(name, metric, arm)
                    yield from score_arm(metric, arm, answers, [said.get(each.item) for each in answers])
        for arm, answers in here.items():
            if answers[0].rule is None and answers[0].log_likelihood is None:
                yield from score_always(arm, answers)


def score_arm(
    metric: AnyMetric, arm: str, answers: Sequence[Answer], found: Sequence[Scores | None]
) -> Iterator[ArmScores]:
    """The metric, and each of its parts; `found` has the scores of each answer."""
    for part in dict.fromkeys(["", *(part for scores in found if scores for part in scores)]):
        values = [None if scores is None else scores.get(part) for scores in found]
        name = f"{metric.label}.{part}" if part else metric.label
        yield _arm_scores(name, arm, answers, values, num_unscored=found.count(None))


def score_always(arm: str, answers: Sequence[Answer]) -> Iterator[ArmScores]:
    """What every model's answers have, whatever the set is scored by."""
    stops = [None if each.error else float(each.finish_reason == "stop") for each in answers]
    tokens = [None if each.error else float(each.completion_tokens) for each in answers]
    for name, values in zip(ALWAYS, (stops, tokens), strict=True):
        yield _arm_scores(name, arm, answers, values, num_unscored=values.count(None))


def _arm_scores(
    name: str, arm: str, answers: Sequence[Answer], values: Sequence[float | None], *, num_unscored: int
) -> ArmScores:
    scored = [(each, value) for each, value in zip(answers, values, strict=True) if value is not None]
    by_stratum = sorted(scored, key=lambda pair: pair[0].stratum or "")
    strata = {
        stratum: _estimate(list(pairs))
        for stratum, pairs in groupby(by_stratum, key=lambda pair: pair[0].stratum)
        if stratum is not None
    }
    unscored = [(each, float(value is None)) for each, value in zip(answers, values, strict=True)]
    return ArmScores(
        set=answers[0].set,
        metric=name,
        arm=arm,
        is_rule=answers[0].rule is not None,
        is_reference=answers[0].is_reference,
        overall=_estimate(scored) if scored else None,
        strata=strata,
        num_unscored=num_unscored,
        unscored=None if "." in name else _estimate(unscored),
        scores={each.item: value for each, value in scored},
    )


def _estimate(scored: Sequence[tuple[Answer, float]]) -> Estimate:
    return Estimate.of([value for _, value in scored], [each.group for each, _ in scored])


def _groups(arms: Arms) -> dict[str, dict[str, str]]:
    groups: dict[str, dict[str, str]] = {}
    for answers in arms.values():
        for each in answers:
            groups.setdefault(each.set, {})[each.item] = each.group
    return groups


def _changes(scores: Sequence[ArmScores], groups: Mapping[str, Mapping[str, str]]) -> Iterator[Change]:
    """Tuned minus base of every metric that the spec names."""
    bases = {(each.set, each.metric): each for each in scores if each.arm == "base" and not each.is_rule}
    pairs = [
        (bases[tuned.set, tuned.metric], tuned)
        for tuned in scores
        if tuned.arm == "tuned" and is_headline(tuned.metric) and (tuned.set, tuned.metric) in bases
    ]
    return paired_changes(pairs, groups)


def _flips(
    metrics: Mapping[str, Sequence[AnyMetric]], scores: Sequence[ArmScores], arms: Arms
) -> Iterator[Flip]:
    """Items of suites of which tuning changed what is said of them, lost ones first."""
    suites = {each.set for each in arms["tuned"] if each.expected}
    found = []
    watched = [(name, one.label) for name, of in metrics.items() for one in of if one.kind in YES_OR_NO]
    for name, label in watched:
        if name not in suites:
            continue
        base, tuned = (
            next(each for each in scores if (each.set, each.metric, each.arm) == (name, label, arm))
            for arm in ("base", "tuned")
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
                        metric=label,
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
        if each.arm != "tuned" or not is_headline(each.metric):
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


def _unfinished(answers: Sequence[Answer]) -> Iterator[str]:
    """What the tuned model did not say, or not to its end; a suite's question asks for no whole answer."""
    for name, of_set in groupby(answers, key=lambda answer: answer.set):
        said = [each for each in of_set if each.error is None and each.log_likelihood is None]
        empty = sum(not each.text.strip() for each in said)
        cut = sum(each.finish_reason == "length" and each.reference is not None for each in said)
        if empty:
            yield f"{name}: {empty} of {len(said)} answers of tuned are empty"
        if cut:
            yield f"{name}: {cut} of {len(said)} answers of tuned were cut at its `max_tokens`; raise it"


def _doubts(judges: Sequence[JudgeEvidence]) -> Iterator[str]:
    for each in judges:
        who = f"{each.name}: {each.role} ({each.who})"
        if each.is_tuned_or_base:
            yield f"{who} judges itself: it is the model that is tuned, and tends to like its own answers"
        if each.is_teacher:
            yield f"{who} wrote rows that the tuned model has learnt, and tends to like what it wrote"
        if each.unseen:
            asked = each.asked + each.unseen
            yield f"{who} was not shown {each.unseen} of {asked} questions: tools, personal data"
        for chosen in (each.first_chosen, getattr(each.calibration, "first_chosen", None)):
            if chosen is not None and chosen.ci95 is not None and not chosen.ci95[0] <= 0.5 <= chosen.ci95[1]:
                yield (
                    f"{who} chooses what stands first in {chosen.mean:.0%} of its answers; where it says"
                    " otherwise in the other order, that is a tie"
                )
                break
