"""Sources on their way through the checks: every item becomes a row or a reject, and a row may be flagged."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tunebook_data.checks import find_fault, find_flags, render_or_fault
from tunebook_data.formats import NOTES
from tunebook_data.inputs import PrepareInputs
from tunebook_data.manifest import FileCounts
from tunebook_data.personal_data import RULE_NAMES, mask_reject, mask_row
from tunebook_data.rejects import Fault, Flag, Reject
from tunebook_data.rows import Row
from tunebook_data.sources import read_source, source_name
from tunebook_data.split import SourceRows
from tunebook_run.progress import Advance
from tunebook_spec.errors import DataError
from tunebook_spec.models import AnySource, Checks, Columns, RowsSource

if TYPE_CHECKING:
    from tunebook_model.render import Rendered, Renderer

logger = logging.getLogger(__name__)

_PROGRESS_EVERY_ROWS = 50
_MIN_REJECTS_TO_STOP = 5


@dataclass
class CheckedSource:
    """One source: what was read of it, and what the checks made of that."""

    source: AnySource
    items: list[Row | Reject]
    files: list[FileCounts]
    rows: list[Row] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    prompts: list[Row] = field(default_factory=list)
    """Rows without an answer, for a teacher."""
    flags: list[Flag] = field(default_factory=list)
    """Of the rows alone; a reject is told by its reason."""

    @property
    def name(self) -> str:
        return f"{source_name(self.source)} ({self.source.task})"


def read_whole(source: AnySource, inputs: PrepareInputs, spec_dir: Path, assets_dir: Path) -> CheckedSource:
    """Everything of a source, unchecked.

    Raises:
        DataError: it cannot be read, or too many of its rows cannot.
    """
    made = CheckedSource(source, [], [])
    system, seed = inputs.data.system, inputs.seed
    parts = read_source(
        source,
        system=system,
        spec_dir=spec_dir,
        assets_dir=assets_dir,
        seed=seed,
        takes_prompts=inputs.data.distill is not None,
    )
    for part in parts:
        items = list(part.items)
        if hides_findings(inputs.data.checks):
            items = [mask_reject(item) if isinstance(item, Reject) else item for item in items]
        made.items += items
        if isinstance(source, RowsSource):
            form = "columns" if isinstance(part.format, Columns) else part.format
            note = None if isinstance(part.format, Columns | None) else NOTES.get(part.format)
            counts = FileCounts(
                file=part.name, format=form, rows_in=len(items), note=note, sha256=part.sha256
            )
            made.files.append(counts)
            told = f"{form}: {note}" if note else form
            logger.info("%-16s read %s: %d rows, format %s", "prepare", part.name, len(items), told)
    # Rows that cannot be read are told before the slower checks of the others.
    rejects = [item for item in made.items if isinstance(item, Reject)]
    _refuse_many_rejects(made.name, rejects, len(made.items), inputs.data.max_reject_fraction)
    return made


def check_sources(
    reads: Sequence[CheckedSource],
    renderer: Renderer | None,
    checks: Checks,
    max_reject_fraction: float,
    advance: Advance,
    *,
    takes_prompts: bool = False,
) -> dict[str, Rendered]:
    """Sort every source's items into rows and rejects; return the rows as training sees them, by id.

    Without a renderer nothing is returned, and what needs the rows in tokens is left unchecked.

    Raises:
        DataError: more of a source than `max_reject_fraction` are rejects, or a row ends the run.
    """
    rendered: dict[str, Rendered] = {}
    done, total = 0, sum(len(read.items) for read in reads)
    for read in reads:
        for item in read.items:
            outcome: Row | Reject | tuple[Row, Rendered | None, list[Flag]] = item
            if isinstance(item, Row):
                is_prompt = takes_prompts and item.messages and item.messages[-1]["role"] == "user"
                outcome = check_prompt(item, checks) if is_prompt else check_row(item, renderer, checks)
            if isinstance(outcome, Reject):
                read.rejects.append(outcome)
            elif isinstance(outcome, Row):
                read.prompts.append(outcome)
            else:
                row, as_trained, flags = outcome
                if as_trained is not None:
                    rendered[row.id] = as_trained
                read.rows.append(row)
                read.flags.extend(flags)
            done += 1
            if done % _PROGRESS_EVERY_ROWS == 0 or done == total:
                advance(done, total, "rows checked")
    for read in reads:
        _refuse_many_rejects(read.name, read.rejects, len(read.items), max_reject_fraction)
    return rendered


def check_row(
    row: Row, renderer: Renderer | None, checks: Checks
) -> tuple[Row, Rendered | None, list[Flag]] | Reject:
    """The row as it may teach, as training sees it, and with what it is flagged for; or why it may not.

    Without a renderer it is not rendered, and not measured in tokens.

    Raises:
        DataError: the row ends the run.
    """
    row, flags = mask_row(row) if checks.personal_data == "mask" else (row, [])
    found = find_fault(row, checks) or (render_or_fault(row, renderer, checks) if renderer else (row, None))
    if isinstance(found, Fault):
        reject = Reject.of_row(row, found)
        return mask_reject(reject) if hides_findings(checks) else reject
    fitting, rendered = found
    if len(fitting.messages) < len(row.messages):
        flags.append(Flag(row.source, row.line, "messages", f"cut to max_tokens {checks.max_tokens}"))
    if renderer and rendered and fitting.messages[-1].get("tool_calls"):
        fitting = replace(fitting, spoken=renderer.last_answer(rendered))
    return fitting, rendered, [*flags, *find_flags(fitting, checks)]


def check_prompt(row: Row, checks: Checks) -> Row | Reject:
    """A row without an answer as it may be asked, or why it may not."""
    row, _ = mask_row(row) if checks.personal_data == "mask" else (row, [])
    bounds = {"min_response_chars": 1, "answer_schema": {}}
    fault = find_fault(answered_by(row, "-"), checks.model_copy(update=bounds))
    if fault is None:
        return row
    reject = Reject.of_row(row, fault)
    return mask_reject(reject) if hides_findings(checks) else reject


def answered_by(row: Row, answer: str) -> Row:
    """A row without an answer, with one."""
    return replace(row, messages=(*row.messages, {"role": "assistant", "content": answer}))


def refuse_empty(reads: Sequence[CheckedSource], kept: Sequence[SourceRows]) -> None:
    """Raise for the first source of which no row is left, with what became of its rows.

    Raises:
        DataError: names the source, the reasons, and an example.
    """
    for read, rows in zip(reads, kept, strict=True):
        if rows.rows or read.prompts:
            continue
        if not read.items:
            raise DataError(
                f"source {read.name}: it holds no rows; give it rows, or remove it from data.sources"
            )
        counts = [f"  {count} x {reason}" for reason, count in rejects_by_reason([read]).items()]
        counts += [f"  {len(read.rows)} x the same conversation as an earlier row"] if read.rows else []
        example = [f"  for instance {read.rejects[0]}"] if read.rejects else []
        head = f"source {read.name}: no row of {len(read.items)} is left; mend them, or relax data.checks:"
        raise DataError("\n".join([head, *counts, *example]))


def rejects_by_reason(reads: Sequence[CheckedSource]) -> dict[str, int]:
    return dict(Counter(reject.reason for read in reads for reject in read.rejects).most_common())


def flags_by_reason(flags: Iterable[Flag], checks: Checks) -> dict[str, int]:
    """Rows by what they are flagged for, and a zero for each rule of personal data that found nothing."""
    told = {"flag": "personal data: ", "mask": "masked "}.get(checks.personal_data)
    counts = Counter({f"{told}{rule}": 0 for rule in RULE_NAMES} if told else {})
    counts.update(
        reason for _, _, reason in dict.fromkeys((flag.source, flag.line, flag.reason) for flag in flags)
    )
    return dict(counts.most_common())


def _refuse_many_rejects(name: str, rejects: Sequence[Reject], num_rows: int, allowed: float) -> None:
    if len(rejects) < _MIN_REJECTS_TO_STOP or len(rejects) <= allowed * num_rows:
        return
    examples = {reject.reason: reject for reject in reversed(rejects)}
    counts = Counter(reject.reason for reject in rejects).most_common()
    lines = [f"  {count} x {reason}, for instance {examples[reason]}" for reason, count in counts]
    head = (
        f"source {name}: {len(rejects)} of {num_rows} rows are rejects, more than data.max_reject_fraction"
        f" {allowed}; mend them, or raise it:"
    )
    raise DataError("\n".join([head, *lines]))


def hides_findings(checks: Checks) -> bool:
    """Whether a reject must not quote personal data either."""
    return checks.personal_data in ("mask", "drop")
