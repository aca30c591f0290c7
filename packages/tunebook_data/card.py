"""The data card: what a data set is made of and what was done to it, by counts and by examples."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from tunebook_data.assemble import Assembled, Splits
from tunebook_data.manifest import DatasetManifest, Step, size_advice
from tunebook_data.near_duplicates import said
from tunebook_data.personal_data import scan
from tunebook_data.rejects import Duplicate, Flag, Reject
from tunebook_data.shown_rows import ShownRow, choose_rows, show_row
from tunebook_data.split import Side
from tunebook_data.steps import all_steps
from tunebook_data.stored_rows import StoredRows
from tunebook_model.conversation import Message
from tunebook_model.render import Renderer
from tunebook_spec.data import Data
from tunebook_spec.fields import Frozen

if TYPE_CHECKING:
    from tunebook_data.loss_outliers import Ranked

CARD = "card.json"
SHOWN_ROWS = 10
_EXAMPLES_PER_REASON = 3
_PAIRS_PER_KIND = 5
_LEAKS_PER_RULE = 10
_EXCERPT_CHARS = 240
_SHARED_CHARS = 100
_BINS = 40


class Example(Frozen):
    """A row that was rejected or flagged."""

    source: str
    line: int
    field: str
    excerpt: str
    """Secrets and personal data are masked in every excerpt of a card."""


class Reason(Frozen):
    reason: str
    rows: int
    examples: tuple[Example, ...]


class Pair(Frozen):
    """A row left out, and the earlier one that it repeats."""

    kind: Literal["exact", "near"]
    similarity: float
    place: str
    excerpt: str
    copy_of: str
    copied_excerpt: str


class LeakExample(Frozen):
    """A training row left out, and what is held out that it contains."""

    rule: Literal["exact", "ngram", "near"]
    overlap: float
    place: str
    excerpt: str
    item: str
    item_excerpt: str


class LossOutlier(Frozen):
    """A training row that the base model finds unlikely."""

    loss: float
    """Mean over the row's supervised tokens, in nats."""
    supervised_tokens: int
    task: str
    place: str
    excerpt: str
    """The end of the conversation."""


class LossOutliers(Frozen):
    median: float
    """Loss of the row in the middle, of all that were scored."""
    scored: int
    rows: tuple[LossOutlier, ...]
    """Highest loss first."""


class Lengths(Frozen):
    """How long the rows of one split are, in tokens."""

    shortest: int
    median: int
    p95: int
    longest: int
    edges: tuple[int, ...]
    """Of the bins: the same for all splits."""
    rows: tuple[int, ...]
    """In each bin."""


Measure = Literal["tokens", "supervised tokens"]


class DataCard(Frozen):
    """What `card.html` shows, in `card.json`. Examples are few however many rows there are."""

    manifest: DatasetManifest
    advice: str
    """What that many training rows are good for."""
    steps: tuple[Step, ...]
    rejects: tuple[Reason, ...]
    flags: tuple[Reason, ...]
    duplicates: dict[Literal["exact", "near"], int]
    pairs: tuple[Pair, ...]
    leaks: tuple[LeakExample, ...] | None
    """None: the spec looks for none."""
    loss_outliers: LossOutliers | None
    """None: the spec ranks none."""
    lengths: dict[Measure, dict[Side, Lengths]]
    rows: tuple[ShownRow, ...]


def write_card(out: Path, card: DataCard) -> None:
    """Write `card.json`; the same card gives the same bytes."""
    (out / CARD).write_text(card.model_dump_json(indent=1), encoding="utf-8")


def read_card(folder: Path) -> DataCard:
    """What `write_card` left in a folder."""
    return DataCard.model_validate_json((folder / CARD).read_bytes())


def make_card(
    made: Assembled,
    manifest: DatasetManifest,
    data: Data,
    *,
    splits: Splits,
    renderer: Renderer,
    ranked: Ranked | None,
) -> DataCard:
    """The card of a data set that is about to be written.

    Args:
        made: what was done to the sources.
        manifest: the counts.
        data: what the spec says of its data.
        splits: the rows that are written, rehearsed ones among those of train.
        renderer: of the base model.
        ranked: the training rows of highest loss; none: none was scored.
    """
    train = splits["train"]
    return DataCard(
        manifest=manifest.of_any_attempt,
        advice=size_advice(made.num_taught),
        steps=all_steps(made, data, manifest),
        rejects=_reasons(manifest.rejects_by_reason, (each for read in made.reads for each in read.rejects)),
        flags=_reasons(manifest.flags_by_reason, made.flags),
        duplicates={"exact": len(made.duplicates), "near": len(made.cleaned.duplicates)},
        pairs=_pairs(made),
        leaks=_leaks(made) if data.decontaminate else None,
        loss_outliers=_loss_outliers(train, ranked, made.num_taught) if ranked else None,
        lengths=_lengths(splits),
        rows=tuple(
            shown
            for i in choose_rows(train, SHOWN_ROWS)
            for shown in show_row(train[i], train.rendered(i), renderer)
        ),
    )


def _reasons(counts: Mapping[str, int], entries: Iterable[Reject | Flag]) -> tuple[Reason, ...]:
    """Reasons with their first examples, in the order of the counts."""
    examples: dict[str, list[Example]] = defaultdict(list)
    for each in entries:
        if len(examples[each.reason]) < _EXAMPLES_PER_REASON:
            excerpt = _masked_reject(each.value) if isinstance(each, Reject) else ""
            examples[each.reason].append(
                Example(source=each.source, line=each.line, field=each.field, excerpt=excerpt)
            )
    return tuple(
        Reason(reason=reason, rows=rows, examples=tuple(examples[reason])) for reason, rows in counts.items()
    )


def _pairs(made: Assembled) -> tuple[Pair, ...]:
    return tuple(
        _pair(each, *(_said(copies.rows[int(place)].messages) for place in places))
        for copies in (made.duplicates, made.cleaned.duplicates)
        for each, *places in islice(zip(copies, copies.copies, copies.firsts, strict=True), _PAIRS_PER_KIND)
    )


def _pair(found: Duplicate, text: str, copied: str) -> Pair:
    # A long beginning that both share would leave no room for what differs.
    differ = (at for at, (a, b) in enumerate(zip(text, copied, strict=False)) if a != b)
    start = max(0, next(differ, 0) - _SHARED_CHARS)
    return Pair(
        kind=found.kind,
        similarity=found.similarity,
        place=f"{found.source}:{found.line}",
        excerpt=_cut(text, start),
        copy_of=f"{found.copy_of_source}:{found.copy_of_line}",
        copied_excerpt=_cut(copied, start),
    )


def _leaks(made: Assembled) -> tuple[LeakExample, ...]:
    found = [*zip(made.cleaned.leaks, made.cleaned.contaminated.tolist(), strict=True)]
    chosen = [
        each
        for rule in ("exact", "ngram", "near")
        for each in islice((each for each in found if each[0].rule == rule), _LEAKS_PER_RULE)
    ]
    train = made.cleaned.duplicates.rows
    named = {each.item for each, _ in chosen}
    items = {item.name: item for item in made.held_out if item.name in named}
    return tuple(
        LeakExample(
            rule=each.rule,
            overlap=each.overlap,
            place=f"{each.source}:{each.line}",
            excerpt=_cut(_said(train[place].messages)),
            item=_cut(_masked(each.item)),
            item_excerpt=_cut(_said((*items[each.item].prompt, *items[each.item].answer))),
        )
        for each, place in chosen
    )


def _loss_outliers(train: StoredRows, ranked: Ranked, num_scored: int) -> LossOutliers:
    worst = train.take(ranked.indices)
    rows = tuple(
        LossOutlier(
            loss=loss,
            supervised_tokens=num_supervised,
            task=row.task,
            place=f"{row.source}:{row.line}",
            excerpt=_cut(text, len(text)),
        )
        for row, loss, num_supervised in zip(worst, ranked.losses, worst.supervised.tolist(), strict=True)
        for text in (_said(row.messages),)
    )
    return LossOutliers(median=ranked.median, scored=num_scored, rows=rows)


def _lengths(splits: Splits) -> dict[Measure, dict[Side, Lengths]]:
    return {
        "tokens": _histograms({side: rows.lengths for side, rows in splits.items()}),
        "supervised tokens": _histograms({side: rows.supervised for side, rows in splits.items()}),
    }


def _histograms(by_side: Mapping[Side, npt.NDArray[np.int32]]) -> dict[Side, Lengths]:
    longest = max(int(lengths.max(initial=0)) for lengths in by_side.values())
    width = max(1, -(-(longest + 1) // _BINS))
    edges = np.arange(0, longest + width + 1, width)
    return {
        side: Lengths(
            shortest=int(lengths.min()),
            median=round(float(np.median(lengths))),
            p95=round(float(np.percentile(lengths, 95))),
            longest=int(lengths.max()),
            edges=tuple(edges.tolist()),
            rows=tuple(np.histogram(lengths, edges)[0].tolist()),
        )
        for side, lengths in by_side.items()
        if len(lengths)
    }


def _said(messages: Iterable[Message]) -> str:
    """A conversation in a line; the system message, which many share, is left out."""
    return _masked(" / ".join(said(messages)))


def _masked(text: str) -> str:
    """Masked as a whole, to be cut afterwards: what was cut first might not be found any more."""
    return " ".join(scan(text)[0].split())


def _cut(text: str, start: int = 0) -> str:
    start = min(start, max(0, len(text) - _EXCERPT_CHARS))
    end = start + _EXCERPT_CHARS
    return f"{'...' if start else ''}{text[start:end]}{'...' if end < len(text) else ''}"


def _masked_reject(value: str) -> str:
    """Without the word that a reject's excerpt was cut in, which may be part of a secret."""
    return scan(re.sub(r"\S*\.\.\.$", "...", value))[0]
