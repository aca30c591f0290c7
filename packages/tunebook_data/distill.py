"""Rows without an answer, answered by a teacher: under its own, longer prompt if the spec has one."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tunebook_data.checked import answered_by
from tunebook_data.checks import judged
from tunebook_data.decontaminate import HeldOut, find_leaks
from tunebook_data.generated import (
    Candidate,
    Provenance,
    Written,
    accept,
    counts_of,
    failures,
    may_be_shown,
    refuse_all_failed,
    uses_tools,
)
from tunebook_data.inputs import PrepareInputs
from tunebook_data.judge import Score, score
from tunebook_data.manifest import JudgedCounts
from tunebook_data.prompts import asked, normalised, prompt_key
from tunebook_data.rejects import Fate, Reject, write_listing
from tunebook_data.rows import Row
from tunebook_data.split import cap_rows
from tunebook_data.structured import Reply, sha256_of
from tunebook_data.workers import HERE, Workers
from tunebook_inference.generator import ChatRequest, Completion
from tunebook_inference.supporting import SupportingModel
from tunebook_model.conversation import Message
from tunebook_model.render import Renderer
from tunebook_run.progress import Advance
from tunebook_spec.data import Decontaminate, Distill


def distill(
    prompts: Sequence[Row],
    *,
    known: Sequence[Row],
    train: Sequence[Row],
    tested: Sequence[Row],
    held_out: Sequence[HeldOut],
    inputs: PrepareInputs,
    teacher: SupportingModel,
    renderer: Renderer,
    out: Path,
    advance: Advance,
    judge: SupportingModel | None = None,
    workers: Workers = HERE,
) -> Written:
    """Have rows answered, and keep those that may teach.

    What became of each is listed in distilled.jsonl, and what the teacher said in vain in
    distilled_failures.jsonl. A prompt that is answered already, or that knows what is held out, is not asked;
    nor is one with tools or calls, which is counted, and no such row is a shot.

    Args:
        prompts: rows whose last message is the user's.
        known: every row of every side.
        train: those of them that are trained on.
        tested: those of the test and validation side.
        held_out: everything that something is measured on.
        inputs: those of `prepare`.
        teacher: a supporting model.
        renderer: of the base model.
        out: an existing folder.
        advance: told of answers.
        judge: chooses among answers, where the spec has one do so.
        workers: who checks what it answers; who asks is always this process.

    Raises:
        StageError: a model answers no more, its budget is spent, or no answer of it can be used.
    """
    spec = inputs.data.distill
    assert spec is not None
    assert (judge is None) == (spec.choose is None), "a judge judges where the spec says so"
    before = replace(teacher.spent)
    plain = [row for row in prompts if not uses_tools(row)]
    shown_to = [teacher, judge] if judge else [teacher]
    may_see = [row for row in plain if all(may_be_shown(row, inputs.data.checks, each) for each in shown_to)]
    skipped, left = _not_worth_asking(may_see, known, tested, held_out, inputs, workers)
    asked_about = {row.id: row for row in left}
    shots = _shots(
        [row for row in train if may_be_shown(row, inputs.data.checks, teacher)], spec, inputs.seed
    )
    requests = {id: _messages(row, spec, shots[row.task]) for id, row in asked_about.items()}
    answers = _ask(teacher, requests, spec, advance)
    if judge is None:
        chosen = {id: Chosen(choose(each)) for id, each in answers.items()}
        judged_counts = None
    else:
        chosen, judged_counts = _choose_by_judge(asked_about, answers, judge, inputs, advance)
    replies = {id: each.reply for id, each in chosen.items()}
    failed = failures(asked_about, replies, inputs.data.checks)
    write_listing(out / "distilled_failures.jsonl", failed)
    refuse_all_failed(teacher, failed, len(replies))
    candidates = [
        _candidate(asked_about[id], requests[id], each, spec, teacher, judge)
        for id, each in chosen.items()
        if each.reply.fault is None
    ]
    accepted = accept(
        candidates,
        known=known,
        train=train,
        held_out=held_out,
        renderer=renderer,
        data=inputs.data,
        near=inputs.data.dedup.near if inputs.data.dedup else None,
        workers=workers,
    )
    fates = [*skipped, *accepted.fates]
    write_listing(out / "distilled.jsonl", fates)
    spent = teacher.spent.since(before)
    counts = counts_of(
        teacher,
        replies,
        fates,
        spent,
        withheld=len(plain) - len(may_see),
        uses_tools=len(prompts) - len(plain),
        judged=judged_counts,
    )
    assert counts.withheld + counts.failed + counts.made == len(plain), "every prompt is accounted for"
    return Written(accepted.rows, accepted.rendered, accepted.flags, counts)


def _not_worth_asking(
    prompts: Sequence[Row],
    known: Sequence[Row],
    tested: Sequence[Row],
    held_out: Sequence[HeldOut],
    inputs: PrepareInputs,
    workers: Workers,
) -> tuple[list[Fate], list[Row]]:
    """Why prompts may not train whatever is answered, and the prompts that may."""
    fates: list[Fate] = []
    fresh: list[Row] = []
    seen = {asked(row.messages): row for row in reversed(known)}
    groups = {(row.task, row.group): row for row in tested}
    for row in prompts:
        first = seen.setdefault(prompt_key(row.messages), row)
        if first is not row:
            detail = f"{first.source}:{first.line}"
            fates.append(Fate.of(row, "copy", "its prompt is there already", detail))
        elif (row.task, row.group) in groups:
            other = groups[(row.task, row.group)]
            fates.append(Fate.of(row, "contaminated", "group", f"{other.source}:{other.line}"))
        else:
            fresh.append(row)
    rules = inputs.data.decontaminate or Decontaminate()
    # Prompts alone: what is asked tells, whatever will be answered.
    leaks = find_leaks([answered_by(row, "-") for row in fresh], held_out, rules, workers)
    for index, match in leaks.items():
        detail = f"{match.item.name}, overlap {match.overlap:.4g}"
        fates.append(Fate.of(fresh[index], "contaminated", match.rule, detail))
    return fates, [row for index, row in enumerate(fresh) if index not in leaks]


def _shots(train: Sequence[Row], spec: Distill, seed: int) -> Mapping[str, list[Message]]:
    """For each task the same training rows, drawn by seed, evenly over groups."""
    by_task: dict[str, list[Row]] = defaultdict(list)
    for row in train:
        if not uses_tools(row):
            by_task[row.task].append(row)
    shots: dict[str, list[Message]] = defaultdict(list)
    for task, rows in by_task.items():
        shown = cap_rows(rows, spec.shots, dealt=False, seed=seed)
        shots[task] = [each for row in shown for each in row.messages if each["role"] != "system"]
    return shots


def _messages(row: Row, spec: Distill, shots: Sequence[Message]) -> tuple[Message, ...]:
    own = row.messages[:1] if row.messages[0]["role"] == "system" else ()
    system: tuple[Message, ...] = own
    if spec.teacher_system is not None:
        system = ({"role": "system", "content": spec.teacher_system},)
    said = (*system, *shots, *row.messages[len(own) :])
    # A weight is for training, and no endpoint knows it.
    return tuple({"role": each["role"], "content": each["content"]} for each in said)


def _ask(
    teacher: SupportingModel,
    prompts: Mapping[str, tuple[Message, ...]],
    spec: Distill,
    advance: Advance,
) -> dict[str, list[Completion]]:
    requests = [
        ChatRequest(f"{id}/{sample}", messages, spec.max_tokens, temperature=spec.temperature, sample=sample)
        for id, messages in prompts.items()
        for sample in range(spec.samples)
    ]
    num_done = 0

    def on_done(_: Completion) -> None:
        nonlocal num_done
        num_done += 1
        advance(num_done, len(requests), f"answers {teacher.spent}")

    answers = iter(teacher.generate(requests, on_done))
    return {id: [next(answers) for _ in range(spec.samples)] for id in prompts}


@dataclass(frozen=True)
class Chosen:
    reply: Reply
    scores: tuple[int | None, ...] = ()
    """Of all answers in their order, where a judge chose."""


def choose(answers: Sequence[Completion]) -> Reply:
    """The first of the answers that more than half of all agree on, case and white space aside."""
    usable = [each for each in answers if _is_usable(each)]
    if not usable:
        return _without_answer(answers)
    votes = Counter(normalised(each.text) for each in usable)
    best, count = votes.most_common(1)[0]
    if 2 * count <= len(answers):
        return Reply(None, f"no majority: {count} of {len(answers)} answers agree", tuple(answers))
    chosen = next(each for each in usable if normalised(each.text) == best)
    return Reply(chosen.text, None, tuple(answers))


def _is_usable(answer: Completion) -> bool:
    return answer.finish_reason == "stop" and bool(answer.text.strip())


def _without_answer(answers: Sequence[Completion]) -> Reply:
    last = answers[-1]
    fault = f"no answer: {last.error}" if last.error else f"{'cut off' if last.text.strip() else 'empty'}"
    return Reply(None, fault, tuple(answers))


def _choose_by_judge(
    prompts: Mapping[str, Row],
    answers: Mapping[str, Sequence[Completion]],
    judge: SupportingModel,
    inputs: PrepareInputs,
    advance: Advance,
) -> tuple[dict[str, Chosen], JudgedCounts]:
    """Of each prompt's answers the one that is scored best, of equals the first.

    Only what passes the checks of rows is judged: nothing else could train, however good it is.
    """
    assert inputs.data.distill is not None
    assert inputs.data.distill.choose is not None
    checks = inputs.data.checks
    fit: dict[tuple[str, int], Row] = {}
    for id, each in answers.items():
        for sample, answer in enumerate(each):
            if _is_usable(answer):
                outcome = judged(answered_by(prompts[id], answer.text), checks)
                if not isinstance(outcome, Reject):
                    fit[id, sample] = outcome[0]
    shown = {f"{id}/{n}": row for (id, n), row in fit.items() if may_be_shown(row, checks, judge)}
    found = score(shown, judge, inputs.data.distill.choose, advance=advance, doing="answers judged")
    withheld = Score(None, "personal data, which no endpoint is shown")
    scores = {(id, n): found.by_id.get(f"{id}/{n}", withheld) for id, n in fit}
    chosen = {id: best(each, [scores.get((id, n)) for n in range(len(each))]) for id, each in answers.items()}
    return chosen, found.counts


def best(answers: Sequence[Completion], given: Sequence[Score | None]) -> Chosen:
    """The answer to a prompt that is scored best, or none where none of those fit to be scored was.

    Where none was fit, the first that can be used goes on, to be rejected for what it is.
    """
    values = tuple(each.value if each else None for each in given)
    scored = [(value, -sample) for sample, value in enumerate(values) if value is not None]
    if scored:
        return Chosen(Reply(answers[-max(scored)[1]].text, None, tuple(answers)), values)
    unscored = next((each for each in given if each), None)
    if unscored:
        return Chosen(Reply(None, f"not scored: {unscored.said}", tuple(answers)), values)
    first = next((each for each in answers if _is_usable(each)), None)
    reply = Reply(first.text, None, tuple(answers)) if first else _without_answer(answers)
    return Chosen(reply, values)


def _candidate(
    row: Row,
    messages: tuple[Message, ...],
    chosen: Chosen,
    spec: Distill,
    teacher: SupportingModel,
    judge: SupportingModel | None,
) -> Candidate:
    provenance = Provenance.of(
        row,
        teacher,
        sha256_of(messages),
        chosen.reply,
        temperature=spec.temperature,
        shared_by=1,
        judge=judge.who if judge else None,
        scores=chosen.scores,
    )
    return Candidate.of(replace(answered_by(row, chosen.reply.value), id=f"{row.id}-d"), row, provenance)
