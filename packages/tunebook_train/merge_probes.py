"""Merge equivalence: the served model is the one that was trained.

Training leaves a few beginnings of its rows with the tokens that the trained model, not merged yet, finds
likeliest next. Whoever serves the merged model asks it the same before anything else. (What `prepare` leaves
in `probes.jsonl` is about rendering: which ids a chat becomes.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from tunebook_data.tokens import TokenTable
from tunebook_inference.generator import TokenLogprobs
from tunebook_spec.errors import IntegrityError
from tunebook_spec.fields import Frozen
from tunebook_train.pack import Pack
from tunebook_train.step import SupervisedLoss

MERGE_PROBES = "merge_probes.json"
_NUM_PROBES, _OUT_OF = 16, 64
_NUM_TOKENS = 5
TOLERANCE = {"float32": 0.005, "float16": 0.02, "bfloat16": 0.1}
"""By what is computed or stored in: nats by which the log-probabilities of all probes may differ, on average.
Another token may be the likeliest where training found the two within `TIES` times that."""
TIES = 5

Served = Callable[[Sequence[Sequence[int]]], Sequence[TokenLogprobs]]
"""Beginnings to the likeliest next tokens, twenty or so, of a model as it is served."""


class MergeProbe(Frozen):
    row: str
    input_ids: tuple[int, ...]
    next_tokens: tuple[tuple[int, float], ...]
    """The likeliest with their natural log-probabilities, best first."""


class MergeProbes(Frozen):
    dtype: str
    """The coarsest that these went through: training's products, and once merged, the weights."""
    probes: tuple[MergeProbe, ...]

    @classmethod
    def read(cls, folder: Path) -> MergeProbes:
        """What `write` left.

        Raises:
            IntegrityError: it is gone.
        """
        try:
            return cls.model_validate_json((folder / MERGE_PROBES).read_text())
        except FileNotFoundError:
            raise IntegrityError(
                f"{folder / MERGE_PROBES} is gone, so that the model cannot be held against training: delete"
                " that folder and run again"
            ) from None

    def write(self, folder: Path) -> None:
        (folder / MERGE_PROBES).write_text(self.model_dump_json(indent=1))

    def through(self, dtype: str) -> MergeProbes:
        """The same after another step in a type of its own."""
        return self.model_copy(update={"dtype": max(self.dtype, dtype, key=TOLERANCE.__getitem__)})


def probe(loss: SupervisedLoss, table: TokenTable, device: torch.device) -> MergeProbes:
    """What the trained model says in some of the shorter rows: after the prompt, and within the answer."""
    some = np.unique(np.linspace(0, len(table) - 1, _OUT_OF).astype(int)).tolist()
    loss.eval()
    probes: list[MergeProbe] = []
    for row in sorted(some, key=lambda row: int(table.lengths[row])):
        pack = Pack.of(table, [row], device)
        if len(pack.predicts_N) and len(probes) < _NUM_PROBES:
            place = pack.predicts_N[[len(pack.predicts_N) * (len(probes) % 4) // 4]]
            with torch.no_grad():
                log_V = loss.log_probabilities(replace(pack, predicts_N=place))[0]
            best = log_V.topk(_NUM_TOKENS)
            likeliest = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
            ids = pack.input_ids_T[: int(place) + 1].tolist()
            probes.append(MergeProbe(row=pack.row_ids[0], input_ids=tuple(ids), next_tokens=likeliest))
    loss.train()
    return MergeProbes(dtype=str(loss.compute_dtype).removeprefix("torch."), probes=tuple(probes))


def check_merge(merged: MergeProbes, served: Served) -> float:
    """Prove that a served model says what the trained one said; by how many nats it is off, on average.

    Raises:
        IntegrityError: it does not; names the probe that is furthest off.
    """
    tolerance = TOLERANCE[merged.dtype]
    answers = served([each.input_ids for each in merged.probes])
    differences = [_difference(each, now) for each, now in zip(merged.probes, answers, strict=True)]
    flips = [_flip(each, now) for each, now in zip(merged.probes, answers, strict=True)]
    mean, num_flips = float(np.mean(differences)), sum(flip > TIES * tolerance for flip in flips)
    if mean > tolerance or num_flips:
        furthest = int(np.argmax(differences))
        each, now = merged.probes[furthest], answers[furthest]
        raise IntegrityError(
            f"the served model is not the one that was trained: its log-probabilities differ by {mean:.3f}"
            f" nats on average, where {merged.dtype} may cost {tolerance}, and its likeliest token in"
            f" {num_flips} of {len(answers)} places; after {len(each.input_ids)} tokens of row {each.row}"
            f" training finds {_told(each.next_tokens)}, serving {_told(now)}. Something changed the weights"
            " between: delete the folder of this run's stage merge and run again"
        )
    return mean


def _difference(probe: MergeProbe, served: TokenLogprobs) -> float:
    """Mean over the probe's tokens, by how likely training found them.

    One that is not among the served is as likely as the last of them. Of what is next to impossible the
    logarithm moves by nats where weights are rounded, and no answer does.
    """
    now, least = dict(served), served[-1][1]
    off = [abs(now.get(id, least) - then) for id, then in probe.next_tokens]
    return float(np.average(off, weights=np.exp([then for _, then in probe.next_tokens])))


def _flip(probe: MergeProbe, served: TokenLogprobs) -> float:
    """By how much training found the served model's likeliest token less likely than its own."""
    then, least = dict(probe.next_tokens), probe.next_tokens[-1][1]
    return probe.next_tokens[0][1] - then.get(served[0][0], least)


def _told(likeliest: Sequence[tuple[int, float]]) -> str:
    id, log_probability = likeliest[0]
    return f"token {id} ({log_probability:.2f})"
