"""The fixed order in which a data set is made, with what goes into each step and what comes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from tunebook_data.assemble import Assembled
from tunebook_data.manifest import DatasetManifest, Step
from tunebook_data.split import SIDES, Side
from tunebook_spec.data import Data


def assembly_steps(made: Assembled, data: Data) -> tuple[Step, ...]:
    """The steps that need no model; from near duplicates on they are about training rows alone."""
    num_items = sum(read.num_items for read in made.reads)
    parsed = sum(read.num_parsed for read in made.reads)
    checked = sum(len(read.rows) for read in made.reads)
    prompts = sum(len(read.prompts) for read in made.reads)
    for_teacher = f"; {prompts:,} more have no answer, for a teacher" if prompts else ""
    kept = sum(len(each.rows) for each in made.kept)
    dealt = {side: sum(len(each[side]) for each in made.dealt) for side in SIDES}
    split = sum(dealt.values())
    beyond = f"; {kept - split} more beyond max_test_rows" if split < kept else ""
    single = dealt["train"] - len(made.cleaned.near_duplicates)
    clean = single - len(made.cleaned.contaminated)
    near = f"nearly repeat another, from similarity {data.dedup.near:g}" if data.dedup else ""
    leaks = "contain what is held out" if data.decontaminate else ""
    return (
        _step("parse", num_items, parsed, "records to conversations"),
        _step("check", parsed, checked, f"{_checks(made)}{for_teacher}"),
        _step("exact duplicates", checked, kept, "equal conversations"),
        _step("group", kept, kept, f"{made.num_groups:,} groups, none of which is split"),
        _step("split", kept, split, f"{_listed(dealt)}{beyond}"),
        _step("near duplicates", dealt["train"], single, near or _OFF, "training rows"),
        _step("decontaminate", single, clean, leaks or _OFF, "training rows"),
        _step("cap", clean, made.num_capped, "data.sources.max_train_rows", "training rows"),
    )


def all_steps(made: Assembled, data: Data, manifest: DatasetManifest) -> tuple[Step, ...]:
    """The whole order, to what training does with the rows."""
    train = manifest.splits["train"]
    written = sum(counts.rows for counts in manifest.splits.values())
    rehearsed = (
        f"the base model's own answers, {manifest.replay.share:.1%} of the tokens" if manifest.replay else ""
    )
    tokens = (
        f"{train.tokens:,} training tokens, {train.supervised_tokens:,} supervised; every loss mask audited"
    )
    copies = sum(len(rows) for each in made.copies for rows in each)
    shown = made.num_taught + copies
    packed = "left to training: end to end, without padding, and none sees another"
    return (
        *assembly_steps(made, data),
        _quality_step(made, manifest),
        *_teachers_steps(made, manifest),
        _step("repeat", made.num_taught, shown, "data.sources.weight" if copies else _OFF, "training rows"),
        _step("rehearse", shown, train.rows, rehearsed or _OFF, "training rows"),
        _step("tokenise", written, written, tokens),
        _step("pack", train.rows, None, packed, "training rows"),
    )


_OFF = "off in this spec"


def _quality_step(made: Assembled, manifest: DatasetManifest) -> Step:
    counts = manifest.quality
    note = _OFF
    if counts:
        judged = counts.judged
        note = f"score less than {counts.at_least} of 10 by {judged.judge}; {judged.asked:,} judged"
        kept = (
            (judged.unscored, "not scored"),
            (counts.withheld, "withheld for personal data"),
            (counts.uses_tools, "with tools"),
        )
        unjudged = ", ".join(f"{count:,} {why}" for count, why in kept if count)
        note += f", and kept: {unjudged}" if unjudged else ""
    return _step("quality", made.num_capped, made.num_train, note, "training rows")


def _teachers_steps(made: Assembled, manifest: DatasetManifest) -> Iterator[Step]:
    """Teachers see what the steps before leave, and what they write passes the same steps."""
    count = made.num_train
    for name, counts, what in (
        ("augment", manifest.augment, "variations"),
        ("distill", manifest.distill, "answered prompts"),
    ):
        kept = counts.kept if counts else 0
        note = f"{kept:,} of {counts.made:,} {what} pass all steps above" if counts else _OFF
        yield _step(name, count, count + kept, note, "training rows")
        count += kept


def _step(
    name: str,
    rows_in: int,
    rows_out: int | None,
    note: str,
    sees: Literal["all rows", "training rows"] = "all rows",
) -> Step:
    return Step(name=name, sees=sees, rows_in=rows_in, rows_out=rows_out, note=note)


def _listed(counts: Mapping[Side, int]) -> str:
    return ", ".join(f"{count:,} {side}" for side, count in counts.items())


def _checks(made: Assembled) -> str:
    return f"contents, and lengths in {'tokens too' if made.is_rendered else 'characters alone'}"
