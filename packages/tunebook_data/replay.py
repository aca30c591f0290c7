"""Rehearsal: the base model's own answers to general prompts, mixed into training against forgetting.

The ids are those that the base spoke, and at each of them its likeliest tokens with their probabilities are
what training has to predict: that tells more of the base than the one token it chose, at no more cost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from tunebook_data.decontaminate import HeldOut, find_leaks
from tunebook_data.inputs import ReplayInputs
from tunebook_data.manifest import ReplayCounts, ReplayManifest
from tunebook_data.prompts import answered, asked, prompt_key
from tunebook_data.rows import REPLAY_TASK, Row, content_id, read_rows, write_rows
from tunebook_data.suites import load_replay_prompts
from tunebook_data.tokens import TokenTable, write_tokens
from tunebook_inference.generator import ChatRequest, Completion, Generator
from tunebook_model.conversation import Message
from tunebook_model.render import Rendered, Renderer, SoftTargets
from tunebook_run.progress import Advance
from tunebook_spec.data import Decontaminate
from tunebook_spec.errors import DataError, StageError

Rehearsal = tuple[Row, Rendered]
ANSWERS, ROWS, TOKENS = "answers.jsonl", "rows.jsonl", "tokens.arrow"
NUM_ALTERNATIVES = 20
"""The most that vLLM reports; of a greedy answer's places they hold nearly all the probability."""


def replay(
    inputs: ReplayInputs, *, renderer: Renderer, generator: Generator, out: Path, advance: Advance
) -> ReplayManifest:
    """Ask the base model the general prompts, and keep its answers with the probabilities behind them.

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
        ChatRequest(request_id, _chat(prompt), inputs.max_tokens, NUM_ALTERNATIVES)
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
    pool = [
        _rehearsal(line, prompt, done[request_id], renderer)
        for line, (request_id, prompt) in enumerate(requests.items(), start=1)
        if done[request_id].text.strip()
    ]
    manifest = _manifest([done[request_id] for request_id in requests], resumed)
    if not pool:
        raise StageError(
            f"the base model answered no general prompt ({manifest.summary()}); remove data.replay"
        )
    write_rows(out / ROWS, (row for row, _ in pool))
    write_tokens(out / TOKENS, ((row.id, rendered) for row, rendered in pool))
    return manifest


def read_pool(folder: Path) -> list[Rehearsal]:
    """What `replay` left."""
    table = TokenTable.open(folder / TOKENS)
    return [(row, table.rendered(i)) for i, row in enumerate(read_rows(folder / ROWS))]


def contaminated(
    pool: Sequence[Rehearsal], held_out: Sequence[HeldOut], rules: Decontaminate | None
) -> frozenset[str]:
    """Ids of answers that contain what is held out, told as for training rows.

    Whatever the rules, and where there are none, a prompt that is itself held out is never rehearsed.
    """
    rows = [row for row, _ in pool]
    prompts = {key for item in held_out for key in (prompt_key(item.prompt), *answered(item.prompt))}
    leaks = find_leaks(rows, held_out, rules) if rules else {}
    return frozenset(row.id for i, row in enumerate(rows) if i in leaks or asked(row.messages) in prompts)


def mix_replay(
    pool: Sequence[Rehearsal],
    *,
    share: float,
    weight: float,
    task_tokens: int,
    leave_out: Collection[str],
    max_tokens: int,
    seed: int,
) -> tuple[list[Rehearsal], ReplayCounts]:
    """Pick answers until they are `share` of all training tokens, each again only after all the others.

    Args:
        pool: of the replay stage.
        share: of the training tokens, picked rows included.
        weight: of a rehearsed token in the loss.
        task_tokens: tokens of all other training rows.
        leave_out: ids of answers that are not rehearsed, as `contaminated` finds them.
        max_tokens: of the longest conversation; the other checks are about the spec's own rows.
        seed: of the order.

    Raises:
        DataError: no answer of the pool can be used.
    """
    allowed = [each for each in pool if each[0].id not in leave_out]
    usable = [each for each in allowed if len(each[1].input_ids) <= max_tokens]
    usable.sort(key=lambda each: hashlib.sha256(f"{seed}\0{each[0].id}".encode()).digest())
    if not usable:
        raise DataError(
            f"data.replay: none of {len(pool)} answers of the base model can be rehearsed:"
            f" {len(pool) - len(allowed)} contain what is held out, {len(allowed)} are longer than"
            f" {max_tokens} tokens; raise data.checks.max_tokens, or remove data.replay"
        )
    wanted = share / (1 - share) * task_tokens
    picked: list[Rehearsal] = []
    tokens = 0
    for row, rendered in _cycle(usable):
        if tokens >= wanted:
            break
        picked.append((row, replace(rendered, weight=weight)))
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


def _cycle(usable: Sequence[Rehearsal]) -> Iterator[Rehearsal]:
    yield from usable
    for repeat in count(2):
        for row, rendered in usable:
            yield replace(row, id=f"{row.id}-{repeat}"), rendered


def _chat(prompt: str) -> tuple[Message, ...]:
    return ({"role": "user", "content": prompt},)


def _rehearsal(line: int, prompt: str, answer: Completion, renderer: Renderer) -> Rehearsal:
    messages: tuple[Message, ...] = (*_chat(prompt), {"role": "assistant", "content": answer.text})
    row_id = content_id(REPLAY_TASK, messages)
    row = Row(row_id, messages, REPLAY_TASK, row_id, REPLAY_TASK, line)
    prompt_ids = renderer.prompt_ids(_chat(prompt))
    input_ids = np.array([*prompt_ids, *answer.token_ids], np.int32)
    return row, Rendered(input_ids, np.arange(len(input_ids)) >= len(prompt_ids), _soft_targets(answer))


def _soft_targets(answer: Completion) -> SoftTargets:
    """The alternatives' probabilities, scaled to a sum of 1."""
    shape = len(answer.token_ids), max(map(len, answer.top_logprobs))
    ids, log_probabilities = np.zeros(shape, np.int32), np.full(shape, -np.inf)
    for n, place in enumerate(answer.top_logprobs):
        for k, (id, log_probability) in enumerate(place):
            ids[n, k], log_probabilities[n, k] = id, log_probability
    probabilities = np.exp(log_probabilities)
    probabilities /= probabilities.sum(1, keepdims=True)
    return SoftTargets(ids, probabilities.astype(np.float32))


def _read_answers(path: Path) -> dict[str, Completion]:
    """Answers of an earlier attempt; an unfinished last line is cut off, failed answers are asked again."""
    if not path.exists():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        path.write_bytes(whole)
    try:
        answers = [_completion(orjson.loads(line)) for line in whole.splitlines()]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise StageError(f"{path}: damaged ({error}); delete it and run again") from None
    return {answer.id: answer for answer in answers if answer.finish_reason != "error"}


def _completion(fields: dict[str, Any]) -> Completion:
    places = tuple(tuple((id, logprob) for id, logprob in place) for place in fields["top_logprobs"])
    return Completion(**{**fields, "token_ids": tuple(fields["token_ids"]), "top_logprobs": places})


def _manifest(answers: Sequence[Completion], resumed: int) -> ReplayManifest:
    spoken = [answer for answer in answers if answer.text.strip()]
    errors = sum(answer.finish_reason == "error" for answer in answers)
    return ReplayManifest(
        prompts=len(answers),
        rows=len(spoken),
        cut=sum(answer.finish_reason == "length" for answer in spoken),
        empty=len(answers) - len(spoken) - errors,
        errors=errors,
        resumed=resumed,
    )
