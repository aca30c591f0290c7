"""Rehearsal: the base model's own answers to general prompts, mixed into training against forgetting."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path

import orjson

from tunebook_data.checks import render_or_fault
from tunebook_data.inputs import ReplayInputs
from tunebook_data.manifest import ReplayCounts, ReplayManifest
from tunebook_data.prompts import PromptKey, asked
from tunebook_data.rejects import Fault
from tunebook_data.rows import Row, content_id, write_rows
from tunebook_data.suites import load_replay_prompts
from tunebook_inference.generator import ChatRequest, Completion, Generator
from tunebook_model.conversation import Message
from tunebook_model.render import Rendered, Renderer
from tunebook_run.progress import Advance
from tunebook_spec.errors import DataError, StageError
from tunebook_spec.models import Checks

REPLAY_TASK = "replay"
ANSWERS, ROWS = "answers.jsonl", "rows.jsonl"


def replay(inputs: ReplayInputs, *, generator: Generator, out: Path, advance: Advance) -> ReplayManifest:
    """Ask the base model the general prompts, and keep the answers that it ended by itself.

    Answers are appended to answers.jsonl as they come; a killed attempt's answers are not asked for again.

    Raises:
        StageError: no answer can be rehearsed.
    """
    prompts = {content_id(REPLAY_TASK, _chat(prompt)): prompt for prompt in load_replay_prompts()}
    # The list stands by kind; by id, any part of it holds every kind.
    requests = dict(sorted(prompts.items())[: inputs.max_prompts])
    done = _read_answers(out / ANSWERS)
    resumed = len(done.keys() & requests.keys())
    missing = [
        ChatRequest(request_id, _chat(prompt), inputs.max_tokens)
        for request_id, prompt in requests.items()
        if request_id not in done
    ]
    with (out / ANSWERS).open("ab") as file:

        def keep(completion: Completion) -> None:
            file.write(orjson.dumps(asdict(completion), option=orjson.OPT_APPEND_NEWLINE))
            file.flush()
            done[completion.id] = completion
            advance(len(done), len(requests))

        generator.generate(missing, keep)
    rows = [
        _row(line, prompt, done[request_id].text)
        for line, (request_id, prompt) in enumerate(requests.items(), start=1)
        if done[request_id].finish_reason == "stop" and done[request_id].text.strip()
    ]
    manifest = _manifest([done[request_id] for request_id in requests], len(rows), resumed)
    if not rows:
        raise StageError(
            f"the base model answered no general prompt to the end ({manifest.summary()});"
            " raise data.replay.max_tokens, or remove data.replay"
        )
    write_rows(out / ROWS, rows)
    return manifest


def mix_replay(
    pool: Sequence[Row],
    *,
    share: float,
    task_tokens: int,
    held_out: Collection[PromptKey],
    renderer: Renderer,
    checks: Checks,
    seed: int,
) -> tuple[list[tuple[Row, Rendered]], ReplayCounts]:
    """Pick answers until they are `share` of all training tokens, each again only after all the others.

    Args:
        pool: rows of the replay stage.
        share: of the training tokens, picked rows included.
        task_tokens: tokens of all other training rows.
        held_out: prompts that evaluation asks; none of them is rehearsed.
        renderer: of the model to be trained.
        checks: `max_tokens` holds here too; the bounds on characters are about the spec's own rows.
        seed: of the order.

    Raises:
        DataError: no answer of the pool can be used.
    """
    allowed = [row for row in pool if asked(row.messages) not in held_out]
    usable: list[tuple[Row, Rendered]] = []
    for row in sorted(allowed, key=lambda row: hashlib.sha256(f"{seed}\0{row.id}".encode()).digest()):
        rendered = render_or_fault(row, renderer, checks.model_copy(update={"on_too_long": "drop"}))
        if not isinstance(rendered, Fault):
            usable.append((row, rendered))
    if not usable:
        raise DataError(
            f"data.replay: none of {len(pool)} answers of the base model can be rehearsed:"
            f" {len(pool) - len(allowed)} are asked by the evaluation, {len(allowed)} fail data.checks;"
            " raise data.checks.max_tokens, or remove data.replay"
        )
    wanted = share / (1 - share) * task_tokens
    picked: list[tuple[Row, Rendered]] = []
    tokens = 0
    for row, rendered in _cycle(usable):
        if tokens >= wanted:
            break
        picked.append((row, rendered))
        tokens += len(rendered.input_ids)
    counts = ReplayCounts(
        rows=len(picked),
        distinct=min(len(picked), len(usable)),
        tokens=tokens,
        share=round(tokens / (tokens + task_tokens), 6),
        held_out=len(pool) - len(allowed),
        unusable=len(allowed) - len(usable),
    )
    return picked, counts


def _cycle(usable: Sequence[tuple[Row, Rendered]]) -> Iterator[tuple[Row, Rendered]]:
    yield from usable
    for repeat in count(2):
        for row, rendered in usable:
            yield replace(row, id=f"{row.id}-{repeat}"), rendered


def _chat(prompt: str) -> tuple[Message, ...]:
    return ({"role": "user", "content": prompt},)


def _row(line: int, prompt: str, answer: str) -> Row:
    messages: tuple[Message, ...] = (*_chat(prompt), {"role": "assistant", "content": answer})
    row_id = content_id(REPLAY_TASK, messages)
    return Row(row_id, messages, REPLAY_TASK, row_id, REPLAY_TASK, line)


def _read_answers(path: Path) -> dict[str, Completion]:
    """Answers of an earlier attempt; an unfinished last line is cut off, failed answers are asked again."""
    if not path.exists():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        path.write_bytes(whole)
    try:
        answers = [Completion(**orjson.loads(line)) for line in whole.splitlines()]
    except (orjson.JSONDecodeError, TypeError) as error:
        raise StageError(f"{path}: damaged ({error}); delete it and run again") from None
    return {answer.id: answer for answer in answers if answer.finish_reason != "error"}


def _manifest(answers: Sequence[Completion], rows: int, resumed: int) -> ReplayManifest:
    reasons = [answer.finish_reason for answer in answers]
    return ReplayManifest(
        prompts=len(answers),
        rows=rows,
        unfinished=reasons.count("length"),
        empty=reasons.count("stop") - rows,
        errors=reasons.count("error"),
        resumed=resumed,
    )
