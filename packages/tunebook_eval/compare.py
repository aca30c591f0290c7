"""Two runs side by side: what differs between them, and what their tuned models do on the same test rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunebook_eval.answers import Answer
from tunebook_eval.changes import paired_changes
from tunebook_eval.definitions import Definition, definitions
from tunebook_eval.evidence import ArmScores, Change, EvalReport
from tunebook_run.differences import Difference, differences
from tunebook_run.record import RunRecord
from tunebook_run.stages import Artifact
from tunebook_run.table import add_row, lines, new_table
from tunebook_spec.metrics import is_headline

ROWS = ("train.jsonl", "validation.jsonl", "test.jsonl")


@dataclass(frozen=True)
class RunEvidence:
    """What is read of a run to compare it."""

    record: RunRecord
    prepared: Artifact
    evaluated: Artifact
    answered: Artifact
    """With the answers of the tuned model."""
    report: EvalReport
    answers: Mapping[str, Sequence[Answer]]
    """Of the tuned model, and of each arm that a judge holds it against."""

    @property
    def data(self) -> dict[str, Any]:
        """Counts of its data, and the digests of its rows and contents."""
        counted = {name: value for name, value in self.prepared.result.items() if name != "summary"}
        digests = {name: self.prepared.files[name] for name in ROWS if name in self.prepared.files}
        return {**counted, "sha256": digests, "contents": self.prepared.inputs["contents"]}

    def tuned(self) -> dict[tuple[str, str], ArmScores]:
        """Scores of the tuned model by set and metric, of the metrics that the spec names."""
        return {
            (each.set, each.metric): each
            for each in self.report.scores
            if each.arm == "tuned" and is_headline(each.metric)
        }

    @property
    def definitions(self) -> dict[tuple[str, str], Definition]:
        return definitions(self.evaluated, self.answered, self.report, self.answers)


@dataclass(frozen=True)
class Comparison:
    one: RunEvidence
    other: RunEvidence
    spec: tuple[Difference, ...]
    data: tuple[Difference, ...]
    versions: tuple[Difference, ...]
    changes: tuple[Change, ...]
    """The other minus the one, row by row, of metrics that are one thing in both, over the same test rows."""
    unlike: dict[tuple[str, str], str]
    """What is defined otherwise, by set and metric: such numbers are of two things that bear one name."""
    unpaired: dict[str, str]
    """Why the scores of a set cannot be paired, by its name."""


def compare(one: RunEvidence, other: RunEvidence) -> Comparison:
    """Hold two runs against each other; only one definition over the same test rows is paired."""
    first, second = one.tuned(), other.tuned()
    sets = dict.fromkeys(name for name, _ in (*first, *second))
    both = one.answers["tuned"], other.answers["tuned"]
    unpaired = {name: why for name in sets if (why := _why_unpaired(name, *both))}
    shared = [at for at in first if at in second]
    defined, otherwise = one.definitions, other.definitions
    unlike = {at: what for at in shared if (what := defined[at].unlike(otherwise[at]))}
    pairs = [(first[at], second[at]) for at in shared if at[0] not in unpaired and at not in unlike]
    return Comparison(
        one=one,
        other=other,
        spec=tuple(differences(one.record.spec, other.record.spec)),
        data=tuple(differences(one.data, other.data)),
        versions=tuple(differences(_versions(one.record), _versions(other.record))),
        changes=tuple(paired_changes(pairs, one.report.groups)),
        unlike=unlike,
        unpaired=unpaired,
    )


def _versions(record: RunRecord) -> dict[str, Any]:
    return {"git_commit": record.git_commit, **record.versions}


def _why_unpaired(name: str, one: Sequence[Answer], other: Sequence[Answer]) -> str | None:
    """None where both were asked the same, row by row, and expected to say the same."""
    first, second = (
        {each.item: _asked(each) for each in of_run if each.set == name} for of_run in (one, other)
    )
    if not first or not second:
        return f"only {'the second' if second else 'the first'} run has it"
    if first == second:
        return None
    same = sum(second.get(item) == asked for item, asked in first.items())
    return f"the test rows differ ({len(first)} and {len(second)}, {same} the same in both)"


def _asked(answer: Answer) -> tuple[str, str | None, tuple[str, ...], str]:
    return answer.question, answer.reference, answer.expected, answer.group


def describe(found: Comparison) -> str:
    """The comparison for people."""
    one, other = found.one.record, found.other.record
    parts = [
        _section("spec", found.spec, one, other),
        [*_section("data", found.data, one, other), *_rows(found)],
        _section("versions", found.versions, one, other),
        [
            *_metrics(found),
            *(f" {name}: not paired, {why}" for name, why in found.unpaired.items()),
            *_unlike(found),
        ],
        [f" {each.name}: {each.verdict[-1] if each.verdict else each.status}" for each in (one, other)],
    ]
    return "\n\n".join("\n".join(part) for part in parts)


def _section(what: str, found: Sequence[Difference], one: RunRecord, other: RunRecord) -> list[str]:
    if not found:
        return [f" {what}: the same"]
    table = new_table(what, one.name, other.name)
    for each in found:
        add_row(table, (each.path, *each.shown))
    return lines(table)


def _rows(found: Comparison) -> list[str]:
    """How many there are of each side, whether or not that differs."""
    return [
        f" {each.record.name}: "
        + ", ".join(f"{counts['rows']} {side}" for side, counts in each.data["splits"].items())
        + " rows"
        for each in (found.one, found.other)
    ]


def _metrics(found: Comparison) -> list[str]:
    one, other = found.one.record.name, found.other.record.name
    numbers = (one, other, "difference", "95 % interval", "p", "p by Holm", "n")
    table = new_table("metric, tuned", *numbers, right=numbers)
    changes = {(each.set, each.metric): each for each in found.changes}
    first, second = found.one.tuned(), found.other.tuned()
    for at in dict.fromkeys((*first, *second)):
        if at in found.unlike:
            continue
        means = (first.get(at), second.get(at))
        add_row(table, (".".join(at), *map(_mean, means), *_told(changes.get(at), means)))
    return lines(table)


def _unlike(found: Comparison) -> Iterator[str]:
    """Each mean by itself, out of the table that would hold it against the other."""
    for at, what in found.unlike.items():
        means = ", ".join(
            f"{each.record.name} {_mean(scores)} (n={scores.overall.num_samples if scores.overall else 0})"
            for each in (found.one, found.other)
            for scores in [each.tuned()[at]]
        )
        yield f" {'.'.join(at)}: defined differently: {what}; {means}"


def _mean(scores: ArmScores | None) -> str:
    return "-" if scores is None or scores.overall is None else scores.overall.shown


def _told(change: Change | None, means: Sequence[ArmScores | None]) -> tuple[str, ...]:
    if change is not None:
        return change.shown
    counts = (str(each.overall.num_samples) if each and each.overall else "-" for each in means)
    return ("-", "-", "-", "-", ", ".join(counts))
