"""Judgements to scores, and to what the judge's word is worth."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pvariance
from typing import Any

from tunebook_eval.evidence import Calibration, Estimate, GoldenPoint, JudgeEvidence, PairCalibration
from tunebook_eval.golden import GoldenRow
from tunebook_eval.judging import Judgement, JudgeRun, read_judgements
from tunebook_eval.scorers import Scores
from tunebook_eval.statistics import kendall, mean_bounds, partial_spearman, spearman
from tunebook_spec.metrics import AnyMetric, Judge, Judged, Pairwise

BEST = 10
ByItem = Mapping[str, Sequence[Judgement]]


@dataclass(frozen=True)
class Judgements:
    """What every judge of a spec said."""

    runs: Mapping[str, JudgeRun]
    """By role."""
    by_metric: Mapping[tuple[str, str], Sequence[Judgement]]
    """By set and metric."""

    @classmethod
    def read(cls, folders: Mapping[str, Path]) -> Judgements:
        """Those of each role, in the folder that its stage left.

        Raises:
            StageError: they are gone, or of another version.
        """
        runs: dict[str, JudgeRun] = {}
        by_metric: dict[tuple[str, str], list[Judgement]] = defaultdict(list)
        for role, folder in folders.items():
            runs[role], judgements = read_judgements(folder)
            for each in judgements:
                by_metric[each.set, each.metric].append(each)
        return cls(runs, by_metric)

    def scores(self, set: str, metric: Judged, arm: str) -> dict[str, Scores | None]:
        """By item; an item is missing where it was not judged, and None where the judge cannot be read."""
        found = _by_item(self.by_metric.get((set, metric.label), ()), arm)
        return {item: _scores(metric, each) for item, each in found.items()}

    def evidence(
        self, metrics: Mapping[str, Sequence[AnyMetric]], groups: Mapping[str, Mapping[str, str]]
    ) -> Iterator[JudgeEvidence]:
        """What is to be said of each judged metric; `groups` has the group of each item, by set."""
        for set, of_set in metrics.items():
            for metric in of_set:
                if isinstance(metric, Judge | Pairwise):
                    of_metric = self.by_metric.get((set, metric.label), ())
                    yield _evidence(set, metric, self.runs[metric.judge], of_metric, groups[set])


def _by_item(judgements: Sequence[Judgement], arm: str | None) -> ByItem:
    found: dict[str, list[Judgement]] = defaultdict(list)
    for each in judgements:
        if each.arm == arm:
            found[each.item].append(each)
    return found


def _scores(metric: Judged, of_item: Sequence[Judgement]) -> Scores | None:
    return _compared(of_item) if isinstance(metric, Pairwise) else _scored(metric, of_item)


def _scored(metric: Judged, of_item: Sequence[Judgement]) -> Scores | None:
    """The mean of the criteria, each the mean of its repeats, from 0 to 1; None unless all could be read."""
    by_criterion: dict[str, float] = {}
    for name in metric.criteria:
        values = [each.value for each in of_item if each.criterion == name and each.value is not None]
        if not values:
            return None
        by_criterion[name] = fmean(values) / BEST
    parts = by_criterion if metric.parts else {}
    return {"": fmean(by_criterion.values()), **parts}


def _compared(of_item: Sequence[Judgement]) -> Scores | None:
    """Won, tied and lost, as shares of the repeats in which both orders could be read."""
    outcomes = [_outcome(both) for both in _orders(of_item)]
    if not outcomes:
        return None
    shares = {name: outcomes.count(value) / len(outcomes) for name, value in _OUTCOMES}
    return {"": fmean(outcomes), **shares}


_OUTCOMES = (("win", 1.0), ("tie", 0.5), ("loss", 0.0))


def _orders(of_item: Sequence[Judgement]) -> Iterator[list[float]]:
    """For each repeat the value in either order, where both could be read."""
    for repeat in sorted({each.repeat for each in of_item}):
        both = [each for each in of_item if each.repeat == repeat]
        values = [each.value for each in both if each.value is not None]
        if len(values) == 2 or (values and not both[0].is_asked):
            yield values


def _outcome(both: Sequence[float]) -> float:
    """A tie where the orders disagree."""
    return both[0] if len(set(both)) == 1 else 0.5


def _evidence(
    set: str,
    metric: Judge | Pairwise,
    run: JudgeRun,
    judgements: Sequence[Judgement],
    groups: Mapping[str, str],
) -> JudgeEvidence:
    asked = [each for each in judgements if each.is_asked]
    faults = Counter(each.said.partition(":")[0] for each in asked if each.value is None)
    golden = run.golden[metric.golden] if metric.golden else None
    compared: dict[str, Any] = {}
    calibration: Calibration | PairCalibration | None = None
    of_golden = _by_item(judgements, None)
    if isinstance(metric, Pairwise):
        of_items = _by_item(judgements, "tuned")
        pairs = [both for each in of_items.values() if each[0].is_asked for both in _orders(each)]
        compared = {
            "against": metric.against,
            "first_chosen": _first_chosen(of_items, groups),
            "orders_disagree": fmean(len({*both}) > 1 for both in pairs) if pairs else None,
        }
        if golden is not None:
            calibration = _calibrate_pairs(str(metric.golden), golden, of_golden)
    elif golden is not None:
        calibration = _calibrate(str(metric.golden), golden, metric, of_golden)
    return JudgeEvidence(
        set=set,
        metric=metric.label,
        kind=metric.kind,
        role=run.role,
        who=run.who,
        reported_models=run.reported_models,
        by_probability=run.by_probability,
        criteria=metric.criteria,
        repeats=metric.repeats,
        asked=len(asked),
        unscored=faults.total(),
        faults=dict(faults.most_common()),
        unseen=sum(not each.is_asked and each.value is None for each in judgements),
        repeat_sd=_repeat_sd(asked),
        is_tuned_or_base=run.is_tuned_or_base,
        is_teacher=run.is_teacher,
        calibration=calibration,
        **compared,
    )


def _first_chosen(items: ByItem, groups: Mapping[str, str] | None = None) -> Estimate | None:
    """How often the answer that stands first is chosen; items without a group are their own."""
    shares = {
        item: fmean(1 - value if swapped else value for value, swapped in read)
        for item, each in items.items()
        if (read := [(one.value, one.swapped) for one in each if one.is_asked and one.value is not None])
    }
    if not shares:
        return None
    return Estimate.of(list(shares.values()), [groups[item] if groups else item for item in shares])


def _repeat_sd(asked: Sequence[Judgement]) -> float | None:
    """Pooled over the questions that were read more than once."""
    values: dict[tuple[object, ...], list[float]] = defaultdict(list)
    for each in asked:
        if each.value is not None:
            values[each.arm, each.item, each.criterion, each.swapped].append(each.value)
    repeated = [each for each in values.values() if len(each) > 1]
    if not repeated:
        return None
    freedom = sum(len(each) - 1 for each in repeated)
    return float((sum(len(each) * pvariance(each) for each in repeated) / freedom) ** 0.5)


def _calibrate(name: str, golden: Mapping[int, GoldenRow], metric: Judge, judged: ByItem) -> Calibration:
    points = []
    for line, row in golden.items():
        of_row = judged.get(str(line), ())
        scores = _scored(metric, of_row)
        points.append(
            GoldenPoint(
                line=line,
                prompt=row.prompt,
                answer=row.answer,
                golden=row.score,
                judged=None if scores is None else BEST * scores[""],
                said=" / ".join(dict.fromkeys(each.said for each in of_row if each.said)),
            )
        )
    read = [(each.judged, each.golden, len(each.answer)) for each in points if each.judged is not None]
    by_judge, by_people, lengths = ([float(row[column]) for row in read] for column in range(3))
    errors = [one - other for one, other in zip(by_judge, by_people, strict=True)]
    rho = spearman(by_judge, by_people)
    length = partial_spearman(by_judge, lengths, by_people)
    return Calibration(
        golden=name,
        num_rows=len(points),
        num_scored=len(read),
        spearman=rho and rho[0],
        spearman_low=rho and rho[1],
        kendall=kendall(by_judge, by_people),
        mean_absolute_error=fmean(map(abs, errors)) if errors else None,
        mean_error=fmean(errors) if errors else None,
        length_bias=length and length[0],
        length_bias_p=length and length[1],
        points=tuple(points),
    )


def _calibrate_pairs(name: str, golden: Mapping[int, GoldenRow], judged: ByItem) -> PairCalibration:
    scores = {item: found[""] for item, each in judged.items() if (found := _compared(each)) is not None}
    rows = {item: tuple(golden[int(line)] for line in item.split("/")) for item in scores}
    prompts = {item: f"{better.system}/{better.prompt}" for item, (better, _) in rows.items()}
    bounds = mean_bounds(list(scores.values()), list(prompts.values())) if scores else None
    lengths = {item: len(better.answer) - len(worse.answer) for item, (better, worse) in rows.items()}
    unlike = {item: each > 0 for item, each in lengths.items() if each}
    shorter = [item for item, up in unlike.items() if not up]
    ties = [_compared(each) for each in judged.values()]
    return PairCalibration(
        golden=name,
        num_pairs=len(judged),
        num_scored=len(scores),
        agreement=bounds and bounds.mean,
        agreement_low=bounds and bounds.low,
        ties=fmean(each["tie"] for each in ties if each) if scores else None,
        first_chosen=_first_chosen(judged),
        longer_preferred=fmean(scores[item] if up else 1 - scores[item] for item, up in unlike.items())
        if unlike
        else None,
        longer_better=fmean(unlike.values()) if unlike else None,
        shorter_agreed=Estimate.of([scores[i] for i in shorter], [prompts[i] for i in shorter])
        if shorter
        else None,
    )
