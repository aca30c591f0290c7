"""Which answers a reader should see side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tunebook_eval.answers import Answer
from tunebook_eval.evidence import ArmScores, Example
from tunebook_spec.metrics import AnyMetric

MAX_PER_SET = 60


def choose_examples(
    metrics: Mapping[str, Sequence[AnyMetric]],
    scores: Sequence[ArmScores],
    arms: Mapping[str, Sequence[Answer]],
) -> Iterator[Example]:
    """For each set what the tuned model answers worse than the base, then its worst, then the rest."""
    models = {arm: answers for arm, answers in arms.items() if answers and answers[0].rule is None}
    for name, of_set in metrics.items():
        by_arm = {s.arm: s.scores for s in scores if (s.set, s.metric) == (name, of_set[0].label)}
        texts = {arm: {a.item: a for a in answers if a.set == name} for arm, answers in models.items()}
        found = [_example(item, texts, by_arm) for item in texts.get("tuned", {})]
        yield from sorted(found, key=_rank)[:MAX_PER_SET]


def _example(
    item: str, texts: Mapping[str, Mapping[str, Answer]], scores: Mapping[str, Mapping[str, float]]
) -> Example:
    shown = texts["tuned"][item]
    return Example(
        set=shown.set,
        item=item,
        question=shown.question,
        expected=shown.reference or " | ".join(shown.expected),
        stratum=shown.stratum,
        answers={
            arm: answers[item].error or answers[item].text
            for arm, answers in texts.items()
            if item in answers
        },
        scores={arm: scores[arm][item] for arm in texts if item in scores.get(arm, {})},
        shots=texts["few_shot"][item].shots if item in texts.get("few_shot", {}) else (),
    )


def _rank(example: Example) -> tuple[float, float]:
    tuned = example.scores.get("tuned", 0.0)
    return tuned - example.scores.get("base", 0.0), tuned
