"""Rows that a model has written: from whom each comes, and what each must pass before it may teach."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from tunebook_data.checked import check_rows
from tunebook_data.checks import hides, personal_data
from tunebook_data.decontaminate import HeldOut, find_leaks
from tunebook_data.manifest import GeneratedCounts, JudgedCounts
from tunebook_data.near_duplicates import near_copies
from tunebook_data.personal_data import scan
from tunebook_data.prompts import prompt_key
from tunebook_data.rejects import Failure, Fate, Flag, Outcome, Reject
from tunebook_data.rows import Row
from tunebook_data.structured import Reply
from tunebook_data.workers import HERE, Workers
from tunebook_inference.supporting import Spent, SupportingModel
from tunebook_model.conversation import Message
from tunebook_model.render import Rendered, Renderer
from tunebook_spec.data import Checks, Data, Decontaminate
from tunebook_spec.errors import StageError

Writer = Literal["augment", "distill"]
"""What of a spec's data has a teacher write rows."""
GENERATED = "generated"
"""The entry of a row's `meta` that holds its provenance."""


@dataclass(frozen=True)
class Provenance:
    """From whom a generated row comes, and what it took."""

    parent: str
    """Id of the row that it was made from."""
    teacher: str
    """The model as the spec names it, with its host; or the digest of its weights."""
    reported_model: str
    """What an endpoint says has answered."""
    prompt_sha256: str
    """Of the messages that the teacher was asked with."""
    temperature: float
    prompt_tokens: int
    """Of the request, a repair included; `shared_by` rows come from it, and share its tokens and cost."""
    completion_tokens: int
    cost: float | None
    """None where the prices are not known."""
    shared_by: int
    judge: str | None = None
    """Who chose this answer among several; None: no judge did."""
    scores: tuple[int | None, ...] = ()
    """The judge's, of all answers in their order; None: not scored, or not fit to be."""

    @classmethod
    def of(
        cls,
        parent: Row,
        teacher: SupportingModel,
        prompt_sha256: str,
        reply: Reply,
        *,
        temperature: float,
        shared_by: int,
        judge: str | None = None,
        scores: tuple[int | None, ...] = (),
    ) -> Provenance:
        answers = reply.completions
        costs = [cost for answer in answers if (cost := teacher.cost(answer)) is not None]
        return cls(
            parent=parent.id,
            teacher=teacher.who,
            reported_model=answers[-1].model,
            prompt_sha256=prompt_sha256,
            temperature=temperature,
            prompt_tokens=sum(answer.prompt_tokens for answer in answers),
            completion_tokens=sum(answer.completion_tokens for answer in answers),
            cost=round(sum(costs), 9) if costs else None,
            shared_by=shared_by,
            judge=judge,
            scores=scores,
        )


@dataclass(frozen=True)
class Candidate:
    """A generated row on its way through the checks."""

    row: Row
    parent: Row

    @classmethod
    def of(cls, row: Row, parent: Row, provenance: Provenance) -> Candidate:
        return cls(replace(row, meta={GENERATED: asdict(provenance)}), parent)


@dataclass(frozen=True)
class Accepted:
    rows: tuple[Row, ...]
    rendered: Mapping[str, Rendered]
    flags: tuple[Flag, ...]
    fates: tuple[Fate, ...]
    """One for each candidate, in their order."""


@dataclass(frozen=True)
class Written:
    """Rows of a teacher that may teach, and what became of all the others."""

    rows: tuple[Row, ...]
    rendered: Mapping[str, Rendered]
    flags: tuple[Flag, ...]
    counts: GeneratedCounts

    @property
    def pairs(self) -> Iterator[tuple[Row, Rendered]]:
        """Each row, and as training sees it."""
        return ((row, self.rendered[row.id]) for row in self.rows)


def accept(
    candidates: Sequence[Candidate],
    *,
    known: Sequence[Row],
    train: Sequence[Row],
    held_out: Sequence[HeldOut],
    renderer: Renderer,
    data: Data,
    near: float | None,
    workers: Workers = HERE,
) -> Accepted:
    """Sort generated rows into those that may teach and those that may not.

    Args:
        candidates: in the order in which they came.
        known: every row of every side, which none may repeat.
        train: those of them that are trained on.
        held_out: everything that something is measured on.
        renderer: of the base model.
        data: its checks, and its thresholds for contamination, or their defaults.
        near: similarity from which a row is a near copy; none: only equal conversations are copies.
        workers: who checks, renders and compares.
    """
    # A row too long is to end the run only if the user wrote it.
    checks = data.checks.model_copy(update={"on_too_long": "drop"})
    fates: dict[str, Fate] = {}
    rendered: dict[str, Rendered] = {}
    flags: dict[str, list[Flag]] = {}
    passed: list[Candidate] = []
    outcomes = check_rows([each.row for each in candidates], renderer, checks, workers)
    for each, outcome in zip(candidates, outcomes, strict=True):
        if isinstance(outcome, Reject):
            detail = f"{outcome.field}: {outcome.value!r}"
            fates[each.row.id] = Fate.of(each.row, "rejected", outcome.reason, detail)
            continue
        row, as_trained, found = outcome
        rendered[row.id], flags[row.id] = as_trained, found
        passed.append(Candidate(row, each.parent))
    single = _without_copies(passed, known, near, fates, workers)
    leaks = find_leaks([*train, *single], held_out, data.decontaminate or Decontaminate(), workers)
    for index, match in leaks.items():
        if index >= len(train):
            row = single[index - len(train)]
            detail = f"{match.item.name}, overlap {match.overlap:.4g}"
            fates[row.id] = Fate.of(row, "contaminated", match.rule, detail)
    kept = tuple(row for row in single if row.id not in fates)
    fates |= {row.id: Fate.of(row, "kept") for row in kept}
    return Accepted(
        rows=kept,
        rendered={row.id: rendered[row.id] for row in kept},
        flags=tuple(flag for row in kept for flag in flags[row.id]),
        fates=tuple(fates[each.row.id] for each in candidates),
    )


def _without_copies(
    candidates: Sequence[Candidate],
    known: Sequence[Row],
    near: float | None,
    fates: dict[str, Fate],
    workers: Workers,
) -> list[Row]:
    seen = {prompt_key(row.messages): row for row in reversed(known)}
    fresh: list[Candidate] = []
    for each in candidates:
        original = seen.setdefault(prompt_key(each.row.messages), each.row)
        if original is each.row:
            fresh.append(each)
        else:
            detail = f"{original.source}:{original.line}"
            fates[each.row.id] = Fate.of(each.row, "copy", "an equal conversation", detail)
    if near is None:
        return [each.row for each in fresh]
    places = {row.id: index for index, row in enumerate(known)}
    rows = [*known, *(each.row for each in fresh)]
    parents = {index: places.get(each.parent.id) for index, each in enumerate(fresh, start=len(known))}
    copies = near_copies(rows, parents, near, workers)
    for index, (original_index, similarity) in copies.items():
        original = rows[original_index]
        detail = f"{original.source}:{original.line}, similarity {similarity:.4g}"
        fates[rows[index].id] = Fate.of(rows[index], "copy", "a near copy", detail)
    return [rows[index] for index in parents if index not in copies]


def counts_of(
    model: SupportingModel,
    replies: Mapping[str, Reply],
    fates: Sequence[Fate],
    spent: Spent,
    *,
    withheld: int,
    uses_tools: int,
    judged: JudgedCounts | None = None,
) -> GeneratedCounts:
    """What a manifest says of the rows that a model made."""
    by_outcome = Counter(fate.outcome for fate in fates)
    counts = GeneratedCounts(
        teacher=model.who,
        withheld=withheld,
        uses_tools=uses_tools,
        asked=len(replies),
        parsed=sum(reply.fault is None for reply in replies.values()),
        repaired=sum(reply.is_repaired for reply in replies.values()),
        failed=sum(reply.fault is not None for reply in replies.values()),
        made=len(fates),
        rejected_by_reason=_by_reason(fates, "rejected"),
        copies_by_reason=_by_reason(fates, "copy"),
        contaminated_by_rule=_by_reason(fates, "contaminated"),
        kept=by_outcome["kept"],
        **model.taken(spent),
        judged=judged,
    )
    assert counts.accounted == counts.made, "every generated row is accounted for"
    return counts


def _by_reason(fates: Sequence[Fate], outcome: Outcome) -> dict[str, int]:
    return dict(Counter(fate.reason for fate in fates if fate.outcome == outcome).most_common())


def failures(parents: Mapping[str, Row], replies: Mapping[str, Reply], checks: Checks) -> list[Failure]:
    """The replies without a value, by the rows that they were asked about."""
    is_hidden = hides(checks)
    return [
        Failure(
            parents[id].source,
            parents[id].line,
            reply.fault,
            tuple(scan(each.text)[0] if is_hidden else each.text for each in reply.completions),
        )
        for id, reply in replies.items()
        if reply.fault is not None
    ]


def refuse_all_failed(model: SupportingModel, failed: Sequence[Failure], num_asked: int) -> None:
    """Raises StageError where no answer at all can be used: the rows are not to blame then."""
    if failed and len(failed) == num_asked:
        last = failed[-1]
        said = f"; it said {last.answers[-1][:200]!r}" if last.answers[-1] else ""
        raise StageError(
            f"{model.role} ({model.who}): none of {num_asked} answers can be used, for instance"
            f" {last.source}:{last.line}: {last.reason}{said}; generated_failures.jsonl has them all: choose"
            " a model that can, or change what it is asked with"
        )


def may_be_shown(row: Row, checks: Checks, teacher: SupportingModel) -> bool:
    """Whether a row may leave this machine, or need not."""
    return not (teacher.is_remote and checks.personal_data == "flag" and personal_data(row))


def uses_tools(row: Row) -> bool:
    """Whether a row tells of tools or of calls, which no teacher is shown, or asked to write."""
    return bool(row.tools) or any(each["role"] == "tool" or each.get("tool_calls") for each in row.messages)


def conversation_as_json(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The exchanges of a conversation, without its system message."""
    said = [message for message in messages if message["role"] != "system"]
    return [
        {"user": user["content"], "assistant": assistant["content"]}
        for user, assistant in zip(said[::2], said[1::2], strict=True)
    ]
