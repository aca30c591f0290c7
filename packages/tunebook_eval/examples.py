"""Every item's answers side by side, as far as a report should grow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tunebook_eval.answers import Answer
from tunebook_eval.evidence import ArmScores, Example
from tunebook_spec.metrics import AnyMetric

MAX_TEXT = 4_000
"""Characters of a question or an answer; the rest is cut off, and what was cut off is said."""
MAX_TOTAL = 12_000_000
"""Characters of all of them, which bounds the report; beyond it the items in which tuning cost least are
left out."""


def choose_examples(
    metrics: Mapping[str, Sequence[AnyMetric]],
    scores: Sequence[ArmScores],
    arms: Mapping[str, Sequence[Answer]],
    *,
    max_total: int = MAX_TOTAL,
) -> Iterator[Example]:
    """For each set what the tuned model answers worse than the base, then its worst, then the rest."""
    models = {arm: answers for arm, answers in arms.items() if answers and answers[0].rule is None}
    ranked = []
    for name, of_set in metrics.items():
        by_arm = {s.arm: s.scores for s in scores if (s.set, s.metric) == (name, of_set[0].label)}
        texts = {arm: {a.item: a for a in answers if a.set == name} for arm, answers in models.items()}
        found = [_example(item, texts, by_arm) for item in texts.get("tuned", {})]
        ranked.append(sorted(found, key=_rank))
    for examples, num in zip(ranked, _within(max_total, ranked), strict=True):
        yield from examples[:num]


def _within(max_total: int, ranked: Sequence[Sequence[Example]]) -> list[int]:
    """How many of each set fit, the sets taking turns, so that a large one leaves the small ones room."""
    nums, total = [0] * len(ranked), 0
    for place in range(max(map(len, ranked), default=0)):
        for n, examples in enumerate(ranked):
            if place < len(examples):
                total += _size(examples[place])
                if total > max_total:
                    return nums
                nums[n] = place + 1
    return nums


def _size(example: Example) -> int:
    return len(example.question) + len(example.expected) + sum(map(len, example.answers.values()))


def _example(
    item: str, texts: Mapping[str, Mapping[str, Answer]], scores: Mapping[str, Mapping[str, float]]
) -> Example:
    shown = texts["tuned"][item]
    return Example(
        set=shown.set,
        item=item,
        question=_cut(shown.question),
        expected=_cut(shown.reference or " | ".join(shown.expected)),
        stratum=shown.stratum,
        answers={
            arm: _cut(answers[item].error or answers[item].text)
            for arm, answers in texts.items()
            if item in answers
        },
        scores={arm: scores[arm][item] for arm in texts if item in scores.get(arm, {})},
        ended={
            arm: "failed" if answers[item].error else "cut off"
            for arm, answers in texts.items()
            if item in answers and answers[item].finish_reason != "stop"
        },
        shots=_shots(item, texts.get("few_shot", {})),
        retrieved=_shots(item, texts.get("retrieval", {})),
    )


def _shots(item: str, answers: Mapping[str, Answer]) -> tuple[str, ...]:
    return answers[item].shots if item in answers else ()


def _cut(text: str) -> str:
    left = len(text) - MAX_TEXT
    return text if left <= 0 else f"{text[:MAX_TEXT]} [{left:,} more characters]"


def _rank(example: Example) -> tuple[float, float]:
    tuned = example.scores.get("tuned", 0.0)
    return tuned - example.scores.get("base", 0.0), tuned
