"""The fixed order in which a data set is made, with what goes into each step and what comes out."""

from __future__ import annotations

from tunebook_data.assemble import Assembled
from tunebook_data.manifest import Step
from tunebook_data.rejects import Reject
from tunebook_data.split import SIDES
from tunebook_spec.models import Data


def assembly_steps(made: Assembled, data: Data) -> tuple[Step, ...]:
    """The steps that need no model; from near duplicates on they are about training rows alone."""
    items = [item for read in made.reads for item in read.items]
    parsed = sum(not isinstance(item, Reject) for item in items)
    checked = sum(len(read.rows) for read in made.reads)
    kept = [row for each in made.kept for row in each.rows]
    groups = len({(row.task, row.group) for row in kept})
    dealt = {side: sum(len(each[side]) for each in made.dealt) for side in SIDES}
    split = sum(dealt.values())
    beyond = f"; {len(kept) - split} more beyond max_test_rows" if split < len(kept) else ""
    single = dealt["train"] - len(made.cleaned.near_duplicate_ids)
    clean = single - len(made.cleaned.contaminated_ids)
    near = f"training rows that nearly repeat another, from {data.dedup.near:g}" if data.dedup else ""
    leaks = "training rows that contain what is held out" if data.decontaminate else ""
    return (
        Step(name="parse", rows_in=len(items), rows_out=parsed, note="records to conversations"),
        Step(name="check", rows_in=parsed, rows_out=checked, note=_checks(made)),
        Step(name="exact duplicates", rows_in=checked, rows_out=len(kept), note="equal conversations"),
        Step(
            name="group", rows_in=len(kept), rows_out=len(kept), note=f"{groups:,} groups, none of them cut"
        ),
        Step(
            name="split",
            rows_in=len(kept),
            rows_out=split,
            note=f"{', '.join(f'{count:,} {side}' for side, count in dealt.items())}{beyond}",
        ),
        Step(name="near duplicates", rows_in=dealt["train"], rows_out=single, note=near or _OFF),
        Step(name="decontaminate", rows_in=single, rows_out=clean, note=leaks or _OFF),
        Step(name="cap", rows_in=clean, rows_out=made.num_train, note="training rows beyond max_train_rows"),
    )


_OFF = "off in this spec"


def _checks(made: Assembled) -> str:
    return f"contents, and lengths in {'tokens' if made.rendered else 'characters alone'}"
