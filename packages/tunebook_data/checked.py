"""Sources on their way through the checks: every item becomes a row or a reject, and a row may be flagged."""

from __future__ import annotations

import logging
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

import numpy as np

from tunebook_data.checks import find_fault, hides, judged, render_or_fault
from tunebook_data.formats import NOTES
from tunebook_data.inputs import PrepareInputs
from tunebook_data.lazy_rows import Rows
from tunebook_data.manifest import FileCounts
from tunebook_data.personal_data import RULE_NAMES, mask_reject, mask_row
from tunebook_data.rejects import Fault, Flag, Reject
from tunebook_data.rows import Row
from tunebook_data.scan import Scanned, scan
from tunebook_data.sources import SourcePart, read_source, source_name
from tunebook_data.split import SourceRows
from tunebook_data.stored_rows import RowStore, StoredRows
from tunebook_data.workers import HERE, Workers, batched
from tunebook_run.progress import Advance
from tunebook_spec.data import AnySource, Checks, Columns, RowsSource
from tunebook_spec.errors import DataError

if TYPE_CHECKING:
    from tunebook_data.kept_tokens import KeptTokens
    from tunebook_model.render import Rendered, Renderer

logger = logging.getLogger(__name__)

_PROGRESS_EVERY_ROWS = 50
ROWS_A_CHUNK = 64
JUDGE_POOL_CHUNKS, RENDER_POOL_CHUNKS = 2048, 512
"""Fewer chunks of rows are done before a second process would have begun, and imported what it takes."""
_MIN_REJECTS_TO_STOP = 5
_UNKNOWN = -1


@dataclass
class CheckedSource:
    """One source: what was read of it, and what the checks made of that."""

    source: AnySource
    num_items: int = 0
    num_parsed: int = 0
    """Of the items, those that hold a conversation, whatever else may be wrong with it."""
    files: list[FileCounts] = field(default_factory=list)
    rows: Rows | StoredRows = field(default_factory=lambda: Rows.of(()))
    """Those that no check refuses: as they are read, then as they are stored."""
    rejects: list[Reject] = field(default_factory=list)
    prompts: list[Row] = field(default_factory=list)
    """Rows without an answer, for a teacher."""
    flags: list[Flag] = field(default_factory=list)
    """Of the rows alone; a reject is told by its reason."""

    @property
    def name(self) -> str:
        return f"{source_name(self.source)} ({self.source.task})"

    def sort_findings(self) -> None:
        """Rejects and flags in the order of the files and their lines."""
        order = {file.file: place for place, file in enumerate(self.files)}
        self.rejects.sort(key=lambda each: (order.get(each.source, 0), each.line))
        self.flags.sort(key=lambda each: (order.get(each.source, 0), each.line))


def read_whole(
    source: AnySource, inputs: PrepareInputs, spec_dir: Path, assets_dir: Path, workers: Workers = HERE
) -> CheckedSource:
    """Everything of a source, by all checks but those that need a model.

    Raises:
        DataError: it cannot be read, or too many of its rows are rejects.
    """
    made = CheckedSource(source)
    system, seed = inputs.data.system, inputs.seed
    rows: list[Rows] = []
    takes_prompts = inputs.data.distill is not None
    parts = read_source(
        source,
        system=system,
        spec_dir=spec_dir,
        assets_dir=assets_dir,
        seed=seed,
        takes_prompts=takes_prompts,
        learns_preferences=inputs.learns_preferences,
    )
    for part in parts:
        found = _scanned(part, inputs.data.checks, takes_prompts, workers)
        rows.append(found.rows)
        made.prompts += found.prompts
        made.rejects += found.rejects
        made.flags += found.flags
        made.num_items += found.num_records
        made.num_parsed += found.num_parsed
        if isinstance(source, RowsSource):
            form = "columns" if isinstance(part.format, Columns) else part.format
            note = None if isinstance(part.format, Columns | None) else NOTES.get(part.format)
            note = None if inputs.learns_preferences else note
            counts = FileCounts(
                file=part.name, format=form, rows_in=found.num_records, note=note, sha256=part.sha256
            )
            made.files.append(counts)
            told = f"{form}: {note}" if note else form
            logger.info("%-16s read %s: %d rows, format %s", "prepare", part.name, found.num_records, told)
    made.rows = Rows.joined(rows)
    # Rows that cannot be read are told before the slower checks of the others.
    _refuse_many_rejects(made.name, made.rejects, made.num_items, inputs.data.max_reject_fraction)
    return made


def _scanned(part: SourcePart, checks: Checks, takes_prompts: bool, workers: Workers) -> Scanned:
    if part.lines is not None:
        return scan(part.lines, checks, workers)
    judge = partial(_judged, checks, takes_prompts)
    whole, parts = Scanned(Rows.of(())), []
    for found in workers.map(judge, batched(part.items, ROWS_A_CHUNK), pool_from=JUDGE_POOL_CHUNKS):
        parts.append(found.rows)
        whole.num_records += found.num_records
        whole.num_parsed += found.num_parsed
        whole.prompts += found.prompts
        whole.rejects += found.rejects
        whole.flags += found.flags
    whole.rows = Rows.joined(parts)
    return whole


def _judged(checks: Checks, takes_prompts: bool, items: Sequence[Row | Reject]) -> Scanned:
    """Records of a file of any kind, judged; their lines are those of the file."""
    found, rows = Scanned(Rows.of(())), []
    for item in items:
        found.num_records += 1
        found.num_parsed += isinstance(item, Row)
        outcome = _check_prompt(item, checks) if takes_prompts and _is_prompt(item) else judged(item, checks)
        if isinstance(outcome, Reject):
            found.rejects.append(outcome)
        elif isinstance(outcome, Row):
            found.prompts.append(outcome)
        else:
            rows.append(outcome[0])
            found.flags += outcome[1]
    found.rows = Rows.of(rows)
    return found


def _is_prompt(item: Row | Reject) -> TypeGuard[Row]:
    return isinstance(item, Row) and bool(item.messages) and item.messages[-1]["role"] == "user"


def check_sources(
    reads: Sequence[CheckedSource],
    renderer: Renderer | None,
    checks: Checks,
    max_reject_fraction: float,
    advance: Advance,
    store: RowStore,
    workers: Workers = HERE,
    kept: KeptTokens | None = None,
) -> None:
    """Cut or reject every source's rows that are too long in tokens; store all, and as training sees them.

    Without a renderer rows are stored alone, and what needs them in tokens is left unchecked. Rows that are
    kept are not rendered again.

    Raises:
        DataError: more of a source than `max_reject_fraction` are rejects, or a row ends the run.
        StoreError: the disk is full.
    """
    done, total = 0, sum(len(read.rows) for read in reads)
    for read in reads:
        numbers = array("q")
        assert isinstance(read.rows, Rows)
        for outcome in _all_as_trained(read.rows, renderer, checks, workers, kept) if renderer else read.rows:
            if isinstance(outcome, Reject):
                read.rejects.append(outcome)
            elif isinstance(outcome, Row):
                numbers.append(store.add(outcome))
            else:
                row, as_trained, flags = outcome
                read.flags += flags
                numbers.append(store.add(row, as_trained))
            done += 1
            if done % _PROGRESS_EVERY_ROWS == 0 or done == total:
                advance(done, total, "rows checked")
        read.rows = StoredRows(store, np.array(numbers, np.intp))
        left_out = {(reject.source, reject.line) for reject in read.rejects}
        read.flags = [flag for flag in read.flags if (flag.source, flag.line) not in left_out]
        read.sort_findings()
    for read in reads:
        _refuse_many_rejects(read.name, read.rejects, read.num_items, max_reject_fraction)


_Checked = tuple[Row, "Rendered", list[Flag]] | Reject
"""A row as it may teach, as training sees it, and with what it is flagged for; or why it may not."""


def _all_as_trained(
    rows: Rows, renderer: Renderer, checks: Checks, workers: Workers, kept: KeptTokens | None
) -> Iterator[_Checked]:
    """What becomes of each judged row, of which only those that are not kept are rendered.

    Workers are ahead of the row at hand, however far apart those are that they get: rows are gone through
    for them apart.
    """
    places = np.full(len(rows), _UNKNOWN)
    for index, row in enumerate(rows if kept else ()):
        assert kept is not None
        found_at = kept.find(row)
        places[index] = _UNKNOWN if found_at is None else found_at
    chunks = batched(rows.take(np.flatnonzero(places == _UNKNOWN)), ROWS_A_CHUNK)
    render = partial(_rendered_chunk, renderer, checks)
    made = chain.from_iterable(workers.map(render, chunks, pool_from=RENDER_POOL_CHUNKS))
    for row, place in zip(rows, map(int, places), strict=True):
        found: tuple[Row | None, Rendered] | Fault
        if kept and place != _UNKNOWN:
            found = kept.read(row, place)
        else:
            found = next(made)
            if kept and not isinstance(found, Fault):
                kept.keep(row, found[0] or row, found[1])
        yield _as_trained(
            row, found if isinstance(found, Fault) else (found[0] or row, found[1]), renderer, checks
        )


def _rendered_chunk(
    renderer: Renderer, checks: Checks, rows: Sequence[Row]
) -> list[tuple[Row | None, Rendered] | Fault]:
    """Each row cut to fit, or none if it fits, since it need not travel back; and as training sees it."""
    made: list[tuple[Row | None, Rendered] | Fault] = []
    for row in rows:
        found = render_or_fault(row, renderer, checks)
        made.append((None, found[1]) if not isinstance(found, Fault) and found[0] is row else found)
    return made


def check_rows(
    rows: Sequence[Row], renderer: Renderer, checks: Checks, workers: Workers = HERE
) -> Iterator[_Checked]:
    """Each row as it may teach, as training sees it, and with what it is flagged for; or why it may not.

    Raises:
        DataError: a row ends the run.
    """
    check = partial(_check_chunk, renderer, checks)
    chunks = workers.map(check, batched(rows, ROWS_A_CHUNK), pool_from=RENDER_POOL_CHUNKS)
    return chain.from_iterable(chunks)


def _check_chunk(renderer: Renderer, checks: Checks, rows: Sequence[Row]) -> list[_Checked]:
    return [_check_row(row, renderer, checks) for row in rows]


def _check_row(row: Row, renderer: Renderer, checks: Checks) -> _Checked:
    outcome = judged(row, checks)
    if isinstance(outcome, Reject):
        return outcome
    row, flags = outcome
    made = _as_trained(row, render_or_fault(row, renderer, checks), renderer, checks)
    return made if isinstance(made, Reject) else (made[0], made[1], [*flags, *made[2]])


def _as_trained(
    row: Row, found: tuple[Row, Rendered] | Fault, renderer: Renderer, checks: Checks
) -> _Checked:
    """What becomes of a judged row that has been rendered, cut to fit if need be, or could not be."""
    if isinstance(found, Fault):
        reject = Reject.of_row(row, found)
        return mask_reject(reject) if hides(checks) else reject
    fitting, rendered = found
    flags = []
    if len(fitting.messages) < len(row.messages):
        flags.append(Flag(row.source, row.line, "messages", f"cut to max_tokens {checks.max_tokens}"))
    if fitting.messages[-1].get("tool_calls"):
        fitting = replace(fitting, spoken=renderer.last_answer(rendered))
    return fitting, rendered, flags


def _check_prompt(row: Row, checks: Checks) -> Row | Reject:
    """A row without an answer as it may be asked, or why it may not."""
    row, _ = mask_row(row) if checks.personal_data == "mask" else (row, [])
    bounds = {"min_response_chars": 1, "answer_schema": {}}
    fault = find_fault(answered_by(row, "-"), checks.model_copy(update=bounds))
    if fault is None:
        return row
    reject = Reject.of_row(row, fault)
    return mask_reject(reject) if hides(checks) else reject


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
        if not read.num_items:
            raise DataError(
                f"source {read.name}: it holds no rows; give it rows, or remove it from data.sources"
            )
        counts = [f"  {count} x {reason}" for reason, count in rejects_by_reason([read]).items()]
        counts += [f"  {len(read.rows)} x the same conversation as an earlier row"] if read.rows else []
        example = [f"  for instance {read.rejects[0]}"] if read.rejects else []
        head = f"source {read.name}: no row of {read.num_items} is left; mend them, or relax data.checks:"
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
