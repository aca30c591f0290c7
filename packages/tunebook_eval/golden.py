"""Golden rows: answers that people have scored, by which a judge is calibrated."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from pydantic import Field, ValidationError

from tunebook_model.conversation import Message
from tunebook_spec import Spec
from tunebook_spec.errors import DataError
from tunebook_spec.fields import Frozen
from tunebook_spec.metrics import Judged, Pairwise

_FORM = 'write lines such as {"prompt": "...", "answer": "...", "score": 7}'


class GoldenRow(Frozen):
    prompt: str = Field(min_length=1)
    answer: str
    score: float = Field(ge=0, le=10)
    """As people see it, by the same criteria; 10 is best."""
    system: str | None = None


@dataclass(frozen=True)
class Golden:
    """A row and its 1-based line."""

    line: int
    row: GoldenRow

    @property
    def prompt(self) -> tuple[Message, ...]:
        asked: Message = {"role": "user", "content": self.row.prompt}
        return (
            (asked,) if self.row.system is None else ({"role": "system", "content": self.row.system}, asked)
        )


def read_golden(path: Path, name: str) -> list[Golden]:
    """The rows of a golden set, in file order.

    Args:
        path: where it is.
        name: what the spec calls it.

    Raises:
        DataError: it cannot be read, a line is no golden row, or all scores are the same.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"golden set {name}: cannot be read ({error})") from None
    rows = [Golden(*each) for each in _rows(name, lines)]
    scores = {each.row.score for each in rows}
    if not rows:
        raise DataError(f"golden set {name}: has no line; {_FORM}")
    if len(scores) == 1:
        raise DataError(
            f"golden set {name}: every answer has score {scores.pop():g}, so no judge can be calibrated by"
            " it; add answers that people find better and worse"
        )
    return rows


def _rows(name: str, lines: Sequence[str]) -> Iterator[tuple[int, GoldenRow]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield number, GoldenRow.model_validate_json(line)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, first["loc"]))
                told = f"{where}: {first['msg']}" if where else first["msg"]
                raise DataError(f"golden set {name}:{number}: {told}; {_FORM}") from None


def golden_pairs(rows: Sequence[Golden]) -> list[tuple[Golden, Golden]]:
    """Two answers to one prompt that people do not score alike, the better first."""
    by_prompt: dict[tuple[str | None, str], list[Golden]] = {}
    for each in rows:
        by_prompt.setdefault((each.row.system, each.row.prompt), []).append(each)
    return [
        (one, other) if one.row.score > other.row.score else (other, one)
        for same in by_prompt.values()
        for one, other in combinations(same, 2)
        if one.row.score != other.row.score
    ]


def golden_digests(spec: Spec, spec_dir: Path) -> dict[str, str]:
    """The content of each golden set that judges of a spec are calibrated by, by its path there."""
    names = {metric.golden for _, metric in judged_metrics(spec) if metric.golden}
    return {name: hashlib.sha256((spec_dir / name).read_bytes()).hexdigest() for name in sorted(names)}


def golden_problems(spec: Spec, spec_dir: Path) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What is wrong with the golden sets of a spec, by place in it."""
    for at, metric in judged_metrics(spec):
        if metric.golden is None:
            continue
        try:
            rows = read_golden(spec_dir / metric.golden, metric.golden)
        except DataError as error:
            yield (*at, "golden"), str(error)
            continue
        if isinstance(metric, Pairwise) and not golden_pairs(rows):
            told = "no prompt has two answers of different scores, which a pairwise judge is calibrated by"
            yield (*at, "golden"), f"golden set {metric.golden}: {told}"


def judged_metrics(spec: Spec) -> Iterator[tuple[tuple[str | int, ...], Judged]]:
    """Those that a supporting model measures, by place in the spec."""
    for name, each in spec.evaluation.sets.items():
        for index, metric in enumerate(each.metrics):
            if isinstance(metric, Judged):
                yield ("evaluation", "sets", name, "metrics", index), metric
