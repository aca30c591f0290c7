"""Sources to clean splits, by all steps that need no model: `prepare` and `tunebook data check` share them.

Importing this loads no model library, so that a check of data starts at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tunebook_data.checked import CheckedSource, check_sources, read_whole, refuse_empty
from tunebook_data.cleaning import Cleaned, clean_train
from tunebook_data.copies import Copies
from tunebook_data.decontaminate import HeldOut, HeldOutItems
from tunebook_data.inputs import PrepareInputs
from tunebook_data.manifest import FEW_ROWS, SourceCounts, size_advice
from tunebook_data.mixture import copy_of, drawn, repeats
from tunebook_data.rejects import Flag
from tunebook_data.rows import Row
from tunebook_data.source_files import public_name
from tunebook_data.sources import source_name
from tunebook_data.split import (
    SIDES,
    Keys,
    Side,
    Sides,
    SourceRows,
    cap_rows,
    check_leaks,
    drop_duplicates,
    split_rows,
)
from tunebook_data.stored_rows import RowStore, StoredRows, joined, taken
from tunebook_data.suite_files import read_suite
from tunebook_data.suites import SuiteItem, load_suite, load_texts
from tunebook_data.workers import HERE, Workers
from tunebook_run.progress import Advance
from tunebook_spec.data import AnySource, DatasetSource, RowsSource
from tunebook_spec.errors import DataError

if TYPE_CHECKING:
    from tunebook_data.generated import Writer, Written
    from tunebook_data.kept_tokens import KeptTokens
    from tunebook_model.render import Rendered, Renderer

Splits = dict[Side, StoredRows]


@dataclass(frozen=True)
class Assembled:
    """Every source on its way to the splits; lists have one entry a source."""

    reads: list[CheckedSource]
    kept: list[SourceRows]
    """Without equal conversations."""
    dealt: list[Splits]
    """Split; what is tested is capped."""
    cleaned: Cleaned
    trained: list[Splits]
    """Those to train on cleaned, capped, and drawn by a weight below 1."""
    copies: list[list[StoredRows]]
    """Training rows that are seen a second time, a third time, and so on, from a weight above 1."""
    held_out: HeldOutItems
    duplicates: Copies
    """Equal conversations; `cleaned` has the near ones."""
    num_groups: int
    """Of all rows that are kept."""
    store: RowStore
    """Where all rows are."""
    is_rendered: bool
    """Whether a model was at hand to tell how training sees them."""
    suites: Mapping[str, Sequence[SuiteItem]] = field(default_factory=dict)
    """Of files that evaluate, by the path in the spec; part of `held_out`."""
    num_below: tuple[int, ...] = ()
    """Training rows that a judge has scored too low, which are among the rejects; empty before."""
    written: Mapping[Writer, Written] = field(default_factory=dict)
    """What teachers have made of these rows and of prompts; empty where none was asked."""

    @property
    def distinct(self) -> Splits:
        """What sources give, each row once."""
        return _joined(self.trained)

    def stored_splits(self) -> Splits:
        """What is written; copies, and what teachers have written, are put into the store for it."""
        made = self.distinct
        written = (pair for each in self.written.values() for pair in each.pairs)
        copies = (pair for each in self.copies for pair in self._copied(each))
        more = StoredRows.of(chain(written, copies), self.store)
        return {**made, "train": joined([made["train"], more])}

    def _copied(self, shown: Sequence[StoredRows]) -> Iterator[tuple[Row, Rendered | None]]:
        for repeat, rows in enumerate(shown, start=2):
            for i, row in enumerate(rows):
                yield copy_of(row, repeat), rows.rendered(i) if self.is_rendered else None

    @property
    def sources(self) -> tuple[SourceCounts, ...]:
        starts = np.cumsum([0, *(len(each["train"]) for each in self.dealt)]).tolist()
        below = self.num_below or (0,) * len(self.reads)
        return tuple(
            _source_counts(
                read,
                self.kept[i],
                self.dealt[i],
                self.trained[i],
                self.copies[i],
                below[i],
                starts[i],
                self.cleaned,
            )
            for i, read in enumerate(self.reads)
        )

    @property
    def num_train(self) -> int:
        """Distinct training rows of sources."""
        return sum(len(each["train"]) for each in self.trained)

    @property
    def num_capped(self) -> int:
        """These, and those that a judge has scored too low: what caps leave."""
        return self.num_train + sum(self.num_below)

    @property
    def num_taught(self) -> int:
        """These, and what teachers have written."""
        return self.num_train + sum(len(each.rows) for each in self.written.values())

    @property
    def flags(self) -> tuple[Flag, ...]:
        """Of the rows of sources, then of those that teachers have written."""
        written = (flag for each in self.written.values() for flag in each.flags)
        return (*(flag for read in self.reads for flag in read.flags), *written)

    @property
    def warnings(self) -> tuple[str, ...]:
        few = [size_advice(self.num_taught)] if self.num_taught < FEW_ROWS else []
        return (*self.cleaned.warnings, *few)


def assemble(
    inputs: PrepareInputs,
    *,
    renderer: Renderer | None,
    spec_dir: Path,
    assets_dir: Path,
    advance: Advance,
    workers: Workers = HERE,
    kept_tokens: KeptTokens | None = None,
    folder: Path | None = None,
) -> Assembled:
    """Parse, check, drop exact duplicates, group, split, drop near duplicates and leaks, cap.

    Args:
        inputs: what of the spec this reads.
        renderer: of the base model; none: rows are neither measured in tokens nor rendered.
        spec_dir: what paths of the spec are relative to.
        assets_dir: the folder that set-up filled.
        advance: told of rows checked.
        workers: who does what can be done by chunks.
        kept_tokens: rows that need not be rendered again; none: every row is.
        folder: where rows lie meanwhile; none: the folder for temporary files.

    Raises:
        DataError: a source cannot be read, too many of its rows are rejects, nothing is left of it, or it
            cannot be split.
        IntegrityError: the split leaks.
        StoreError: the disk is full.
    """
    data = inputs.data
    suites = {path: read_suite(path, spec_dir) for path in inputs.suite_files}
    reads = [read_whole(source, inputs, spec_dir, assets_dir, workers) for source in data.sources]
    store = RowStore(folder)
    check_sources(
        reads, renderer, data.checks, data.max_reject_fraction, advance, store, workers, kept_tokens
    )
    kept, duplicates = drop_duplicates(SourceRows(read.name, read.source.split, read.rows) for read in reads)
    refuse_empty(reads, kept)
    rows = joined([each.rows for each in kept])
    keys = Keys.of(rows)
    sides = np.concatenate(split_rows(kept, inputs.seed, keys))
    by_side = {side: np.flatnonzero(sides == number) for number, side in enumerate(SIDES)}
    check_leaks(
        {side: taken(rows, chosen) for side, chosen in by_side.items()},
        {side: keys.take(chosen) for side, chosen in by_side.items()},
    )
    num_groups = keys.num_groups
    del keys
    dealt = _dealt(reads, kept, sides, inputs.seed)
    held_out = _held_out(dealt, inputs, suites)
    cleaned = clean_train(joined([each["train"] for each in dealt]), held_out, data, workers)
    trained = _trained(reads, dealt, cleaned, inputs.seed)
    copies = [
        repeats(each["train"], read.source.weight, dealt=_is_dealt(read.source), seed=inputs.seed)
        for read, each in zip(reads, trained, strict=True)
    ]
    return Assembled(
        reads,
        kept,
        dealt,
        cleaned,
        trained,
        copies,
        held_out,
        duplicates,
        num_groups,
        store,
        renderer is not None,
        suites,
    )


def _dealt(
    reads: Sequence[CheckedSource], kept: Sequence[SourceRows], sides: Sides, seed: int
) -> list[Splits]:
    """Each source's rows by side; what is tested is capped here, so that nothing else counts as held out."""
    made: list[Splits] = []
    start = 0
    for read, source in zip(reads, kept, strict=True):
        assert isinstance(source.rows, StoredRows)
        of_source = sides[start : start + len(source.rows)]
        mine = {side: source.rows.take(np.flatnonzero(of_source == k)) for k, side in enumerate(SIDES)}
        made.append({**mine, "test": _capped(mine["test"], read.source.max_test_rows, read.source, seed)})
        start += len(source.rows)
    return made


def _joined(per_source: Sequence[Splits]) -> Splits:
    return {side: joined([each[side] for each in per_source]) for side in SIDES}


def _trained(
    reads: Sequence[CheckedSource], dealt: Sequence[Splits], cleaned: Cleaned, seed: int
) -> list[Splits]:
    """Rows by side with those to train on cleaned, capped, and drawn by a weight below 1.

    Raises:
        DataError: a source had rows to train on, and none stays.
    """
    made: list[Splits] = []
    start = 0
    for read, splits in zip(reads, dealt, strict=True):
        first, end = np.searchsorted(cleaned.kept, [start, start + len(splits["train"])])
        stay = splits["train"].take(cleaned.kept[first:end] - start)
        start += len(splits["train"])
        if splits["train"] and not stay:
            raise DataError(
                f"source {read.name}: none of {len(splits['train'])} training rows is left: all nearly repeat"
                " rows of another source, or contain what is held out; mend them, or change data.dedup or"
                " data.decontaminate"
            )
        capped = _capped(stay, read.source.max_train_rows, read.source, seed)
        train = drawn(capped, read.source.weight, dealt=_is_dealt(read.source), seed=seed)
        made.append({**splits, "train": train})
    return made


def _capped(rows: StoredRows, cap: int | None, source: AnySource, seed: int) -> StoredRows:
    return cap_rows(rows, cap, dealt=_is_dealt(source), seed=seed)


def _is_dealt(source: AnySource) -> bool:
    return isinstance(source, DatasetSource)


def _held_out(
    sources: Sequence[Splits], inputs: PrepareInputs, own: Mapping[str, Sequence[SuiteItem]]
) -> HeldOutItems:
    """Everything that something is measured on."""
    rows = _joined(sources)
    suites = {name: load_suite(name) for name in inputs.suites} | {
        public_name(path): own[path] for path in own
    }
    asked = [
        (f"suite {name}: {item.id}", text)
        for name, items in suites.items()
        for item in items
        for text in dict.fromkeys((item.q, item.prompt))
    ]
    questions = [(f"question {question!r}", question) for question in inputs.questions]
    texts = [(f"{name}: {text[:60]!r}", text) for name in inputs.texts for text in load_texts(name)]
    told = tuple(HeldOut.of_text(*each) for each in (*asked, *questions, *texts))
    return HeldOutItems((("test", rows["test"]), ("validation", rows["validation"])), told)


def _source_counts(
    read: CheckedSource,
    kept: SourceRows,
    dealt: Splits,
    splits: Splits,
    copies: Sequence[StoredRows],
    num_below: int,
    start: int,
    cleaned: Cleaned,
) -> SourceCounts:
    """`start` is the number of the source's first training row."""
    sides = {side: len(rows) for side, rows in splits.items()}
    near, contaminated = (
        int(np.count_nonzero((numbers >= start) & (numbers < start + len(dealt["train"]))))
        for numbers in (cleaned.near_duplicates, cleaned.contaminated)
    )
    counts = SourceCounts(
        source=source_name(read.source),
        task=read.source.task,
        licence=read.source.licence if isinstance(read.source, RowsSource) else None,
        rows_in=read.num_items,
        rejects=len(read.rejects),
        duplicates=len(read.rows) - len(kept.rows),
        prompts=len(read.prompts),
        files=tuple(read.files),
        near_duplicates=near,
        contaminated=contaminated,
        capped=len(kept.rows) - near - contaminated - num_below - sum(sides.values()),
        repeats=sum(map(len, copies)),
        **sides,
    )
    assert counts.capped >= 0, "no row is in two places"
    assert counts.accounted == counts.rows_in, "every row that came in is accounted for"
    return counts
