"""Sources to clean splits, by all steps that need no model: `prepare` and `tunebook data check` share them.

Importing this loads no model library, so that a check of data starts at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tunebook_data.checked import CheckedSource, check_sources, read_whole, refuse_empty
from tunebook_data.cleaning import Cleaned, clean_train
from tunebook_data.decontaminate import HeldOut
from tunebook_data.inputs import PrepareInputs
from tunebook_data.manifest import FEW_ROWS, SourceCounts, size_advice
from tunebook_data.mixture import drawn, repeats
from tunebook_data.rejects import Duplicate, Flag
from tunebook_data.rows import Row
from tunebook_data.sources import source_name
from tunebook_data.split import SIDES, Side, SourceRows, cap_rows, check_leaks, drop_duplicates, split_rows
from tunebook_data.suites import load_suite, load_texts
from tunebook_data.workers import HERE, Workers
from tunebook_run.progress import Advance
from tunebook_spec.errors import DataError
from tunebook_spec.models import AnySource, DatasetSource

if TYPE_CHECKING:
    from tunebook_data.generated import Writer, Written
    from tunebook_data.kept_tokens import KeptTokens
    from tunebook_model.render import Rendered, Renderer

Splits = dict[Side, list[Row]]


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
    copies: list[list[tuple[Row, Row]]]
    """Training rows that are seen again, each with its copy."""
    held_out: list[HeldOut]
    duplicates: tuple[Duplicate, ...]
    """Exact ones, then near ones."""
    rendered: dict[str, Rendered]
    """The rows as training sees them, by id; empty where no model was at hand."""
    below: frozenset[str] = frozenset()
    """Ids of training rows that a judge has scored too low, which are among the rejects; empty before."""
    written: Mapping[Writer, Written] = field(default_factory=dict)
    """What teachers have made of these rows and of prompts; empty where none was asked."""

    @property
    def distinct(self) -> Splits:
        """What sources give, each row once."""
        return _joined(self.trained)

    @property
    def splits(self) -> Splits:
        made = self.distinct
        made["train"] += [row for each in self.written.values() for row in each.rows]
        made["train"] += [copy for each in self.copies for _, copy in each]
        return made

    @property
    def sources(self) -> tuple[SourceCounts, ...]:
        each = zip(self.reads, self.kept, self.dealt, self.trained, map(len, self.copies), strict=True)
        return tuple(_source_counts(*source, self.cleaned, self.below) for source in each)

    @property
    def num_train(self) -> int:
        """Distinct training rows of sources."""
        return sum(len(each["train"]) for each in self.trained)

    @property
    def num_capped(self) -> int:
        """These, and those that a judge has scored too low: what caps leave."""
        return self.num_train + len(self.below)

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

    Raises:
        DataError: a source cannot be read, too many of its rows are rejects, nothing is left of it, or it
            cannot be split.
        IntegrityError: the split leaks.
    """
    data = inputs.data
    reads = [read_whole(source, inputs, spec_dir, assets_dir, workers) for source in data.sources]
    most = data.max_reject_fraction
    rendered = check_sources(reads, renderer, data.checks, most, advance, workers, kept_tokens)
    kept, duplicates = drop_duplicates(SourceRows(read.name, read.source.split, read.rows) for read in reads)
    refuse_empty(reads, kept)
    dealt = _split(reads, kept, inputs.seed)
    check_leaks(_joined(dealt))
    held_out = _held_out(dealt, inputs)
    cleaned = clean_train([row for each in dealt for row in each["train"]], held_out, data, workers)
    trained = [_trained(*each, cleaned, inputs.seed) for each in zip(reads, dealt, strict=True)]
    copies = [
        repeats(each["train"], read.source.weight, dealt=_is_dealt(read.source), seed=inputs.seed)
        for read, each in zip(reads, trained, strict=True)
    ]
    rendered |= {copy.id: rendered[row.id] for each in copies for row, copy in each if row.id in rendered}
    all_duplicates = (*duplicates, *cleaned.duplicates)
    return Assembled(reads, kept, dealt, cleaned, trained, copies, held_out, all_duplicates, rendered)


def _split(reads: Sequence[CheckedSource], kept: Sequence[SourceRows], seed: int) -> list[Splits]:
    """Each source's rows by side; what is tested is capped here, so that nothing else counts as held out."""
    sides = split_rows(kept, seed)
    made: list[Splits] = []
    for read, source in zip(reads, kept, strict=True):
        mine: Splits = {side: [row for row in source.rows if sides[row.id] == side] for side in SIDES}
        made.append({**mine, "test": _capped(mine["test"], read.source.max_test_rows, read.source, seed)})
    return made


def _joined(per_source: Sequence[Splits]) -> Splits:
    return {side: [row for each in per_source for row in each[side]] for side in SIDES}


def _trained(read: CheckedSource, splits: Splits, cleaned: Cleaned, seed: int) -> Splits:
    """A source's rows by side with those to train on cleaned, capped, and drawn by a weight below 1.

    Raises:
        DataError: the source had rows to train on, and none stays.
    """
    stay = [row for row in splits["train"] if row.id in cleaned.kept]
    if splits["train"] and not stay:
        raise DataError(
            f"source {read.name}: none of {len(splits['train'])} training rows is left: all nearly repeat"
            " rows of another source, or contain what is held out; mend them, or change data.dedup or"
            " data.decontaminate"
        )
    capped = _capped(stay, read.source.max_train_rows, read.source, seed)
    return {**splits, "train": drawn(capped, read.source.weight, dealt=_is_dealt(read.source), seed=seed)}


def _capped(rows: Sequence[Row], cap: int | None, source: AnySource, seed: int) -> list[Row]:
    return cap_rows(rows, cap, dealt=_is_dealt(source), seed=seed)


def _is_dealt(source: AnySource) -> bool:
    return isinstance(source, DatasetSource)


def _held_out(sources: Sequence[Splits], inputs: PrepareInputs) -> list[HeldOut]:
    """Everything that something is measured on."""
    sides: tuple[Side, ...] = ("test", "validation")
    rows = [HeldOut.of_row(side, row) for side in sides for each in sources for row in each[side]]
    suites = [(f"suite {name}: {item.id}", item.q) for name in inputs.suites for item in load_suite(name)]
    questions = [(f"question {question!r}", question) for question in inputs.questions]
    texts = [(f"{name}: {text[:60]!r}", text) for name in inputs.texts for text in load_texts(name)]
    return [*rows, *(HeldOut.of_text(*each) for each in (*suites, *questions, *texts))]


def _source_counts(
    read: CheckedSource,
    kept: SourceRows,
    dealt: Splits,
    splits: Splits,
    num_copies: int,
    cleaned: Cleaned,
    below: frozenset[str],
) -> SourceCounts:
    sides = {side: len(rows) for side, rows in splits.items()}
    near = sum(row.id in cleaned.near_duplicate_ids for row in dealt["train"])
    contaminated = sum(row.id in cleaned.contaminated_ids for row in dealt["train"])
    judged = sum(row.id in below for row in dealt["train"])
    counts = SourceCounts(
        source=source_name(read.source),
        task=read.source.task,
        rows_in=read.num_items,
        rejects=len(read.rejects),
        duplicates=len(read.rows) - len(kept.rows),
        prompts=len(read.prompts),
        files=tuple(read.files),
        near_duplicates=near,
        contaminated=contaminated,
        capped=len(kept.rows) - near - contaminated - judged - sum(sides.values()),
        repeats=num_copies,
        **sides,
    )
    assert counts.capped >= 0, "no row is in two places"
    assert counts.accounted == counts.rows_in, "every row that came in is accounted for"
    return counts
