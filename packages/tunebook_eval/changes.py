"""What changed between two arms, metric by metric, over the items that both have a score for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tunebook_eval.evidence import ArmScores, Change
from tunebook_eval.statistics import difference_bounds, holm, paired_p_value


def paired_changes(
    pairs: Sequence[tuple[ArmScores, ArmScores]], groups: Mapping[str, Mapping[str, str]]
) -> Iterator[Change]:
    """Second minus first of each pair, with p-values adjusted for their number.

    Args:
        pairs: Scores of one metric of one set each; pairs that share no item are left out.
        groups: Item -> group, by set.
    """
    found = []
    for before, after in pairs:
        items = [item for item in after.scores if item in before.scores]
        if items:
            sides = [after.scores[item] for item in items], [before.scores[item] for item in items]
            of = [groups[after.set][item] for item in items]
            bounds = difference_bounds(*sides, of, alpha=0.025)
            found.append((after, bounds, paired_p_value(*sides, of)))
    adjusted = iter(holm([p for *_, p in found if p is not None]))
    for after, bounds, p_value in found:
        yield Change(
            set=after.set,
            metric=after.metric,
            num_samples=bounds.num_samples,
            num_groups=bounds.num_groups,
            mean=bounds.mean,
            ci95=None if bounds.low is None or bounds.high is None else (bounds.low, bounds.high),
            p_value=p_value,
            adjusted_p_value=None if p_value is None else next(adjusted),
        )
