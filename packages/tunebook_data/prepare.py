"""Sources to a checked, split and tokenised data set."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tunebook_data.assemble import Assembled, Splits, assemble
from tunebook_data.augment import augment
from tunebook_data.card import make_card, write_card
from tunebook_data.checked import flags_by_reason, rejects_by_reason
from tunebook_data.contract import PROBES, choose_probes, write_probes
from tunebook_data.datasets.catalogue import CATALOGUE
from tunebook_data.distill import distill
from tunebook_data.generated import Writer, Written
from tunebook_data.inputs import PrepareInputs
from tunebook_data.kept_tokens import KeptTokens
from tunebook_data.manifest import Attribution, DatasetManifest, ReplayCounts, SplitCounts
from tunebook_data.quality import drop_low_quality
from tunebook_data.rejects import write_listing
from tunebook_data.replay import contaminated, mix_replay, read_pool
from tunebook_data.rows import REPLAY_TASK, row_line
from tunebook_data.split import Keys, check_leaks
from tunebook_data.stored_rows import RenderedRows, StoredRows, joined
from tunebook_data.suite_files import SUITES, write_suites
from tunebook_data.tokens import write_table
from tunebook_data.wheels import pinned_wheels
from tunebook_data.workers import HERE, Workers, batched
from tunebook_inference.supporting import SupportingModel
from tunebook_model.render import Renderer
from tunebook_run.progress import Advance
from tunebook_spec.data import AnySource, DatasetSource
from tunebook_spec.errors import IntegrityError

if TYPE_CHECKING:
    from tunebook_data.loss_outliers import Ranked

logger = logging.getLogger(__name__)

_ROWS_A_BATCH = 4096


def prepare(
    inputs: PrepareInputs,
    *,
    model_dir: Path,
    spec_dir: Path,
    assets_dir: Path,
    replay_dir: Path | None,
    out: Path,
    advance: Advance,
    models: Mapping[str, SupportingModel] = MappingProxyType({}),
    workers: Workers = HERE,
    kept_tokens: KeptTokens | None = None,
) -> DatasetManifest:
    """Write the data set of a spec; the same inputs give the same bytes, whoever works on them.

    Args:
        inputs: what of the spec this reads.
        model_dir: the base model, in Hugging Face layout.
        spec_dir: what paths of the spec are relative to.
        assets_dir: the folder that set-up filled.
        replay_dir: output of `replay`; none where the spec rehearses nothing.
        out: an existing folder.
        advance: told of rows checked, of rows that a teacher has answered for, and of rows scored.
        models: the supporting models of the spec that judge or write rows, by role.
        workers: who does what can be done by chunks.
        kept_tokens: rows that need not be rendered again; none: every row is.

    Raises:
        DataError: a source cannot be read, too many of its rows are rejects, nothing is left of it, or it
            cannot be split.
        IntegrityError: a loss mask or the split is not what it must be.
        StageError: a supporting model answers no more, or its budget is spent.
    """
    renderer = Renderer.load(model_dir, inputs.chat_template_kwargs)
    made = assemble(
        inputs,
        renderer=renderer,
        spec_dir=spec_dir,
        assets_dir=assets_dir,
        advance=advance,
        workers=workers,
        kept_tokens=kept_tokens,
        folder=out,
    )
    if kept_tokens:
        known, asked = kept_tokens.num_known, kept_tokens.num_asked
        logger.info("%-16s tokens of %d rows, %d known", "prepare", asked, known)
    quality = None
    if inputs.data.quality:
        judge = models[inputs.data.quality.judge]
        made, quality = drop_low_quality(made, inputs.data, judge=judge, advance=advance)
    made = replace(made, written=_write_by_models(made, inputs, models, renderer, out, advance, workers))
    splits = made.stored_splits()
    replay = None
    if inputs.data.replay and inputs.data.replay.share:
        assert replay_dir is not None, "the spec rehearses, so the replay stage comes first"
        splits["train"], replay = _with_replay(splits["train"], replay_dir, made, inputs)
    keys = {side: Keys.of(rows) for side, rows in splits.items()}
    check_leaks(splits, keys)
    _audit(splits, renderer)
    _write(out, splits, renderer)
    write_listing(out / "rejects.jsonl", (reject for read in made.reads for reject in read.rejects))
    write_listing(out / "flags.jsonl", made.flags)
    write_listing(out / "duplicates.jsonl", chain(made.duplicates, made.cleaned.duplicates))
    write_listing(out / "leaks.jsonl", made.cleaned.leaks)
    for warning in made.warnings:
        logger.warning("%-16s %s", "prepare", warning)
    if made.suites:
        write_suites(out / SUITES, made.suites)
    manifest = DatasetManifest(
        sources=made.sources,
        rejects_by_reason=rejects_by_reason(made.reads),
        flags_by_reason=flags_by_reason(made.flags, inputs.data.checks),
        leaks_by_rule=dict(Counter(leak.rule for leak in made.cleaned.leaks).most_common()),
        splits={side: _split_counts(rows, keys[side]) for side, rows in splits.items()},
        quality=quality,
        augment=made.written["augment"].counts if "augment" in made.written else None,
        distill=made.written["distill"].counts if "distill" in made.written else None,
        replay=replay,
        attribution=_attribution(inputs.data.sources),
        warnings=made.warnings,
    )
    # What teachers have written follows the rows of sources; behind stand copies and rehearsed rows.
    ranked = _ranked(splits["train"][: made.num_taught], inputs.data.loss_outliers, model_dir, advance)
    write_card(out, make_card(made, manifest, inputs.data, splits=splits, renderer=renderer, ranked=ranked))
    return manifest


def _ranked(taught: StoredRows, num_ranked: int | None, model_dir: Path, advance: Advance) -> Ranked | None:
    if num_ranked is None:
        return None
    from tunebook_data.loss_outliers import rank_by_loss

    return rank_by_loss(taught, model_dir, num_ranked, advance)


def _write_by_models(
    made: Assembled,
    inputs: PrepareInputs,
    models: Mapping[str, SupportingModel],
    renderer: Renderer,
    out: Path,
    advance: Advance,
    workers: Workers,
) -> dict[Writer, Written]:
    """Rows that teachers write, by what asks for them; what one has written is shown to no other.

    They are made of what cleaning, caps and weights leave, not of copies, and are themselves not copied.
    """
    written: dict[Writer, Written] = {}
    if not (inputs.data.augment or inputs.data.distill):
        return written
    # Teachers answer for far fewer rows than memory holds.
    known = [row for source in made.kept for row in source.rows]
    sides = {side: [*rows] for side, rows in made.distinct.items()}
    if inputs.data.augment:
        written["augment"] = augment(
            sides["train"],
            known=known,
            held_out=made.held_out,
            inputs=inputs,
            teacher=models[inputs.data.augment.teacher],
            renderer=renderer,
            out=out,
            advance=advance,
            workers=workers,
        )
        known += written["augment"].rows
    if inputs.data.distill:
        written["distill"] = distill(
            [row for read in made.reads for row in read.prompts],
            known=known,
            train=sides["train"],
            tested=[*sides["test"], *sides["validation"]],
            held_out=made.held_out,
            inputs=inputs,
            teacher=models[inputs.data.distill.teacher],
            judge=models[inputs.data.distill.choose.judge] if inputs.data.distill.choose else None,
            renderer=renderer,
            out=out,
            advance=advance,
            workers=workers,
        )
    return written


def _with_replay(
    train: StoredRows, replay_dir: Path, made: Assembled, inputs: PrepareInputs
) -> tuple[StoredRows, ReplayCounts]:
    assert inputs.data.replay is not None
    pool = read_pool(replay_dir)
    picked, counts = mix_replay(
        pool,
        share=inputs.data.replay.share,
        weight=inputs.data.replay.loss_weight,
        task_tokens=int(train.lengths.sum(dtype=np.int64)),
        leave_out=contaminated(pool, made.held_out, inputs.data.decontaminate),
        max_tokens=inputs.data.checks.max_tokens,
        seed=inputs.seed,
    )
    return joined([train, StoredRows.of(picked, made.store)]), counts


def _audit(splits: Splits, renderer: Renderer) -> None:
    for rows in splits.values():
        for i in range(len(rows)):
            rendered = rows.rendered(i)
            wrong = renderer.audit(rendered)
            if wrong is None and rendered.rejected is not None:
                wrong = renderer.audit(rendered.rejected)
            if wrong is not None and rows[i].task == REPLAY_TASK:
                wrong = renderer.audit(rows.rendered(i), may_be_cut=True)
            if wrong is not None:
                row = rows[i]
                raise IntegrityError(
                    f"{row.source}:{row.line}: loss mask of row {row.id}: {wrong}; training on it would teach"
                    " something else than the answer"
                )


def _write(out: Path, splits: Splits, renderer: Renderer) -> None:
    ids = []
    for side, rows in splits.items():
        written = pa.chunked_array(_write_rows(out / f"{side}.jsonl", rows), pa.string()).combine_chunks()
        if side != "test":
            write_table(out / f"{side}.tokens.arrow", _token_ids(rows, written), RenderedRows(rows))
        ids.append(written)
    num_ids = pc.count_distinct(pa.chunked_array(ids)).as_py()
    assert num_ids == sum(map(len, splits.values())), "two rows share an id"
    write_probes(out / PROBES, choose_probes(joined([*splits.values()]), renderer))


def _token_ids(rows: StoredRows, ids: pa.StringArray) -> pa.StringArray:
    """The ids of rows of a token table, in which a pair is two."""
    if not len(rows) or rows[0].rejected is None:
        return ids
    return pa.array([name for each in ids.to_pylist() for name in (each, f"{each}-rejected")], pa.string())


def _write_rows(path: Path, rows: StoredRows) -> list[pa.StringArray]:
    """Write rows; their ids."""
    ids = []
    with path.open("wb") as file:
        for batch in batched(rows, _ROWS_A_BATCH):
            file.writelines(row_line(row) for row in batch)
            ids.append(pa.array([row.id for row in batch], pa.string()))
    return ids


def _split_counts(rows: StoredRows, keys: Keys) -> SplitCounts:
    lengths, supervised = rows.lengths, rows.supervised
    if len(rows) and rows[0].rejected is not None:
        both = [(len(each.input_ids), int(each.loss_mask.sum())) for each in RenderedRows(rows)]
        lengths, supervised = np.array(both, np.int32).T
    return SplitCounts(
        rows=len(rows),
        groups=keys.num_groups,
        tokens=int(lengths.sum(dtype=np.int64)),
        supervised_tokens=int(supervised.sum(dtype=np.int64)),
        longest_tokens=int(lengths.max(initial=0)),
    )


def _attribution(sources: Sequence[AnySource]) -> tuple[Attribution, ...]:
    used = dict.fromkeys(source.name for source in sources if isinstance(source, DatasetSource))
    pins = pinned_wheels()
    return tuple(
        Attribution(
            **asdict(CATALOGUE[name].card),
            packages={f"{each} {pins[each][0]}": pins[each][1] for each in CATALOGUE[name].packages},
        )
        for name in used
    )
