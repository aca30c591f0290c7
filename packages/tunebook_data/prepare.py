"""Sources to a checked, split and tokenised data set."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from tunebook_data.checked import (
    CheckedSource,
    check_sources,
    flags_by_reason,
    read_whole,
    refuse_empty,
    rejects_by_reason,
)
from tunebook_data.cleaning import Cleaned, clean_train
from tunebook_data.contract import PROBES, choose_probes, write_probes
from tunebook_data.datasets.medical_glossary import CARD
from tunebook_data.decontaminate import HeldOut
from tunebook_data.inputs import PrepareInputs
from tunebook_data.manifest import (
    FEW_ROWS,
    Attribution,
    DatasetManifest,
    ReplayCounts,
    SourceCounts,
    SplitCounts,
    size_advice,
)
from tunebook_data.prompts import prompt_key
from tunebook_data.rejects import write_listing
from tunebook_data.replay import REPLAY_TASK, mix_replay, read_pool
from tunebook_data.rows import Row, write_rows
from tunebook_data.sources import source_name
from tunebook_data.split import SIDES, Side, SourceRows, cap_rows, check_leaks, drop_duplicates, split_rows
from tunebook_data.suites import load_suite, load_texts
from tunebook_data.tokens import write_tokens
from tunebook_model.render import Rendered, Renderer
from tunebook_run.progress import Advance
from tunebook_spec.errors import DataError, IntegrityError
from tunebook_spec.models import AnySource, DatasetSource

logger = logging.getLogger(__name__)

Splits = dict[Side, list[Row]]


def prepare(
    inputs: PrepareInputs,
    *,
    model_dir: Path,
    spec_dir: Path,
    assets_dir: Path,
    replay_dir: Path | None,
    out: Path,
    advance: Advance,
) -> DatasetManifest:
    """Write the data set of a spec; the same inputs give the same bytes.

    Args:
        inputs: what of the spec this reads.
        model_dir: the base model, in Hugging Face layout.
        spec_dir: what paths of the spec are relative to.
        assets_dir: the folder that set-up filled.
        replay_dir: output of `replay`; none where the spec rehearses nothing.
        out: an existing folder.
        advance: told of rows checked.

    Raises:
        DataError: a source cannot be read, too many of its rows are rejects, nothing is left of it, or it
            cannot be split.
        IntegrityError: a loss mask or the split is not what it must be.
    """
    renderer = Renderer.load(model_dir, inputs.chat_template_kwargs)
    reads = [read_whole(source, inputs, spec_dir, assets_dir) for source in inputs.data.sources]
    rendered = check_sources(reads, renderer, inputs.data.checks, inputs.data.max_reject_fraction, advance)
    kept, duplicates = drop_duplicates(SourceRows(read.name, read.source.split, read.rows) for read in reads)
    refuse_empty(reads, kept)
    dealt = _split(reads, kept, inputs.seed)
    check_leaks(_joined(dealt))
    held_out = _held_out(dealt, inputs)
    cleaned = clean_train([row for each in dealt for row in each["train"]], held_out, inputs.data)
    per_source = [_trained(*each, cleaned, inputs.seed) for each in zip(reads, dealt, strict=True)]
    splits = _joined(per_source)
    replay = None
    if inputs.data.replay and inputs.data.replay.share:
        assert replay_dir is not None, "the spec rehearses, so the replay stage comes first"
        replay = _add_replay(splits, rendered, replay_dir, held_out, inputs)
    check_leaks(splits)
    _audit(splits, rendered, renderer)
    _write(out, splits, rendered, renderer)
    write_listing(out / "rejects.jsonl", (reject for read in reads for reject in read.rejects))
    write_listing(out / "flags.jsonl", (flag for read in reads for flag in read.flags))
    write_listing(out / "duplicates.jsonl", [*duplicates, *cleaned.duplicates])
    write_listing(out / "leaks.jsonl", cleaned.leaks)
    num_train = sum(len(each["train"]) for each in per_source)
    warnings = (*cleaned.warnings, *([size_advice(num_train)] if num_train < FEW_ROWS else []))
    for warning in warnings:
        logger.warning("%-16s %s", "prepare", warning)
    counted = zip(reads, kept, dealt, per_source, strict=True)
    return DatasetManifest(
        sources=tuple(_source_counts(*each, cleaned) for each in counted),
        rejects_by_reason=rejects_by_reason(reads),
        flags_by_reason=flags_by_reason(reads, inputs.data.checks),
        leaks_by_rule=dict(Counter(leak.rule for leak in cleaned.leaks).most_common()),
        splits={side: _split_counts(rows, rendered) for side, rows in splits.items()},
        replay=replay,
        attribution=_attribution(inputs.data.sources),
        warnings=warnings,
    )


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
    """A source's rows by side with those to train on cleaned, then capped: a cap counts rows that stay.

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
    return {**splits, "train": _capped(stay, read.source.max_train_rows, read.source, seed)}


def _capped(rows: Sequence[Row], cap: int | None, source: AnySource, seed: int) -> list[Row]:
    return cap_rows(rows, cap, dealt=isinstance(source, DatasetSource), seed=seed)


def _add_replay(
    splits: Splits,
    rendered: dict[str, Rendered],
    replay_dir: Path,
    held_out: Sequence[HeldOut],
    inputs: PrepareInputs,
) -> ReplayCounts:
    assert inputs.data.replay is not None
    picked, counts = mix_replay(
        read_pool(replay_dir),
        share=inputs.data.replay.share,
        task_tokens=sum(len(rendered[row.id].input_ids) for row in splits["train"]),
        held_out={prompt_key(item.prompt) for item in held_out},
        max_tokens=inputs.data.checks.max_tokens,
        seed=inputs.seed,
    )
    for row, each in picked:
        splits["train"].append(row)
        rendered[row.id] = each
    return counts


def _held_out(sources: Sequence[Splits], inputs: PrepareInputs) -> list[HeldOut]:
    """Everything that something is measured on."""
    sides: tuple[Side, ...] = ("test", "validation")
    rows = [HeldOut.of_row(side, row) for side in sides for each in sources for row in each[side]]
    suites = [(f"suite {name}: {item.id}", item.q) for name in inputs.suites for item in load_suite(name)]
    questions = [(f"question {question!r}", question) for question in inputs.questions]
    texts = [(f"{name}: {text[:60]!r}", text) for name in inputs.texts for text in load_texts(name)]
    return [*rows, *(HeldOut.of_text(*each) for each in (*suites, *questions, *texts))]


def _audit(splits: Splits, rendered: Mapping[str, Rendered], renderer: Renderer) -> None:
    for rows in splits.values():
        for row in rows:
            wrong = renderer.audit(rendered[row.id], may_be_cut=row.task == REPLAY_TASK)
            if wrong is not None:
                raise IntegrityError(
                    f"{row.source}:{row.line}: loss mask of row {row.id}: {wrong}; training on it would teach"
                    " something else than the answer"
                )
    ids = [row.id for rows in splits.values() for row in rows]
    assert len(set(ids)) == len(ids), "two rows share an id"


def _write(out: Path, splits: Splits, rendered: Mapping[str, Rendered], renderer: Renderer) -> None:
    for side, rows in splits.items():
        write_rows(out / f"{side}.jsonl", rows)
        if side != "test":
            write_tokens(out / f"{side}.tokens.arrow", ((row.id, rendered[row.id]) for row in rows))
    pairs = ((row, rendered[row.id]) for rows in splits.values() for row in rows)
    write_probes(out / PROBES, choose_probes(pairs, renderer))


def _source_counts(
    read: CheckedSource, kept: SourceRows, dealt: Splits, splits: Splits, cleaned: Cleaned
) -> SourceCounts:
    sides = {side: len(rows) for side, rows in splits.items()}
    near = sum(row.id in cleaned.near_duplicate_ids for row in dealt["train"])
    contaminated = sum(row.id in cleaned.contaminated_ids for row in dealt["train"])
    counts = SourceCounts(
        source=source_name(read.source),
        task=read.source.task,
        rows_in=read.num_items,
        rejects=len(read.rejects),
        duplicates=len(read.rows) - len(kept.rows),
        files=tuple(read.files),
        near_duplicates=near,
        contaminated=contaminated,
        capped=len(kept.rows) - near - contaminated - sum(sides.values()),
        **sides,
    )
    assert counts.accounted == counts.rows_in, "every row that came in is accounted for"
    return counts


def _split_counts(rows: Sequence[Row], rendered: Mapping[str, Rendered]) -> SplitCounts:
    lengths = [len(rendered[row.id].input_ids) for row in rows]
    return SplitCounts(
        rows=len(rows),
        groups=len({(row.task, row.group) for row in rows}),
        tokens=sum(lengths),
        supervised_tokens=sum(sum(rendered[row.id].loss_mask) for row in rows),
        longest_tokens=max(lengths, default=0),
    )


def _attribution(sources: Sequence[AnySource]) -> tuple[Attribution, ...]:
    used = {source.name for source in sources if isinstance(source, DatasetSource)}
    return tuple(Attribution(**asdict(card)) for card in (CARD,) if card.name in used)
