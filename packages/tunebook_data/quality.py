"""Training rows of sources scored by a judge, and those left out that it scores low."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from tunebook_data.assemble import Assembled, Splits
from tunebook_data.checked import CheckedSource
from tunebook_data.checks import hides
from tunebook_data.generated import may_be_shown, uses_tools
from tunebook_data.judge import BEST_SCORE, Score, score
from tunebook_data.manifest import QualityCounts
from tunebook_data.personal_data import mask_reject
from tunebook_data.rejects import Fault, Flag, Reject
from tunebook_data.rows import Row
from tunebook_data.stored_rows import StoredRows
from tunebook_inference.supporting import SupportingModel
from tunebook_run.progress import Advance
from tunebook_spec.data import Data
from tunebook_spec.errors import DataError

NOT_SCORED = "not scored by the judge"


def drop_low_quality(
    made: Assembled, data: Data, *, judge: SupportingModel, advance: Advance
) -> tuple[Assembled, QualityCounts]:
    """Have the judge score what would be trained on, each row once, and drop what it scores too low.

    What cleaning and caps have left out is not paid for, and what is held out is not judged. A row that is
    not scored stays, and is flagged; one that may not be shown to the judge stays too.

    Raises:
        DataError: none of a source's training rows is good enough.
        StageError: the judge answers no more, its budget is spent, or it scores no row at all.
    """
    spec = data.quality
    assert spec is not None
    train = made.distinct["train"]
    plain = [row for row in train if not uses_tools(row)]
    shown = {row.id: row for row in plain if may_be_shown(row, data.checks, judge)}
    found = score(shown, judge, spec, advance=advance, doing="rows judged")
    low = {
        id: each for id, each in found.by_id.items() if each.value is not None and each.value < spec.at_least
    }
    unscored = {id for id, each in found.by_id.items() if each.value is None}
    reads, trained = [], []
    for read, splits in zip(made.reads, made.trained, strict=True):
        reads.append(_with_findings(read, splits["train"], low, unscored, data))
        trained.append(_without(read, splits, low, spec.at_least))
    counts = QualityCounts(
        at_least=spec.at_least,
        judged=found.counts,
        below=len(low),
        withheld=len(plain) - len(shown),
        uses_tools=len(train) - len(plain),
    )
    copies = [[_not_among(low, rows) for rows in each] for each in made.copies]
    num_below = tuple(
        len(before["train"]) - len(after["train"])
        for before, after in zip(made.trained, trained, strict=True)
    )
    return replace(made, reads=reads, trained=trained, copies=copies, num_below=num_below), counts


def _with_findings(
    read: CheckedSource, train: StoredRows, low: Mapping[str, Score], unscored: set[str], data: Data
) -> CheckedSource:
    assert data.quality is not None
    rejects = [_reject(row, low[row.id], data.quality.at_least) for row in train if row.id in low]
    if hides(data.checks):
        rejects = [mask_reject(each) for each in rejects]
    left_out = {(each.source, each.line) for each in rejects}
    flags = [each for each in read.flags if (each.source, each.line) not in left_out]
    flags += [Flag(row.source, row.line, "messages", NOT_SCORED) for row in train if row.id in unscored]
    made = replace(read, rejects=[*read.rejects, *rejects], flags=flags)
    made.sort_findings()
    return made


def _reject(row: Row, found: Score, at_least: int) -> Reject:
    told = f"{found.value} of {BEST_SCORE}: {found.said}"
    return Reject.of_row(row, Fault("messages", f"quality below {at_least}", told))


def _without(read: CheckedSource, splits: Splits, low: Mapping[str, Score], at_least: int) -> Splits:
    stay = _not_among(low, splits["train"])
    if splits["train"] and not stay:
        raise DataError(
            f"source {read.name}: the judge scores all of {len(splits['train'])} training rows below"
            f" {at_least}; mend them, or change data.quality"
        )
    return {**splits, "train": stay}


def _not_among(low: Mapping[str, Score], rows: StoredRows) -> StoredRows:
    return rows.take(np.array([i for i, row in enumerate(rows) if row.id not in low], np.intp))
